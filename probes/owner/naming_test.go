package owner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culprit/probes/snapshot"
)

const (
	idA = "4f1d9c2ba07e6358f1d9c2ba07e6358f1d9c2ba07e6358f1d9c2ba07e6358a1b"
	idB = "0b9e7d3c51a2f84600b9e7d3c51a2f84600b9e7d3c51a2f84600b9e7d3c51a2f"
	pod = "3a7c1f9e_5b2d_4c80_9e61_0d4f7b8a2c15"
)

// namingRoot is a host's file system of the given files.
func namingRoot(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		namingWrite(t, root, path, content)
	}
	return root
}

func namingWrite(t testing.TB, root, path, content string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestNamingByCgroup(t *testing.T) {
	const besteffort = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + pod + ".slice/"
	tests := []struct {
		name, cgroup         string
		container, unit, app string // app defaults to container, unit, then the executable
	}{
		{name: "root", cgroup: "/"},
		{name: "init", cgroup: "/init.scope"},

		{name: "docker, cgroupfs driver", cgroup: "/docker/" + idA, container: idA},
		{name: "docker, systemd driver", cgroup: "/system.slice/docker-" + idA + ".scope", container: idA},
		{name: "docker, own parent", cgroup: "/batch/jobs/" + idA, container: idA},
		{name: "docker, rootless", cgroup: "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + idA + ".scope", container: idA},
		{name: "docker's daemon", cgroup: "/system.slice/docker.service", unit: "docker.service"},
		{name: "docker in docker", cgroup: "/docker/" + idA + "/docker/" + idB, container: idB},
		{name: "runtime inside a container", cgroup: "/docker/" + idA + "/init", container: idA},
		{name: "systemd inside docker", cgroup: "/system.slice/docker-" + idA + ".scope/system.slice/nginx.service", container: idA},
		{name: "kind", cgroup: "/docker/" + idA + "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + pod + ".slice/cri-containerd-" + idB + ".scope", container: idB},
		{name: "ecs", cgroup: "/ecs/0f9d6f6d6e0c4b8f9a2f4a1b3c5d7e9f/" + idA, container: idA},

		{name: "kubepods guaranteed, cgroupfs", cgroup: "/kubepods/pod3a7c1f9e-5b2d-4c80-9e61-0d4f7b8a2c15/" + idA, container: idA},
		{name: "kubepods burstable, cgroupfs", cgroup: "/kubepods/burstable/pod3a7c1f9e-5b2d-4c80-9e61-0d4f7b8a2c15/" + idA, container: idA},
		{name: "kubepods guaranteed, containerd", cgroup: "/kubepods.slice/kubepods-pod" + pod + ".slice/cri-containerd-" + idA + ".scope", container: idA},
		{name: "kubepods burstable, containerd", cgroup: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + pod + ".slice/cri-containerd-" + idA + ".scope", container: idA},
		{name: "kubepods besteffort, cri-o", cgroup: besteffort + "crio-" + idA + ".scope", container: idA},
		{name: "cri-o, below its scope", cgroup: besteffort + "crio-" + idA + ".scope/container", container: idA},
		{name: "cri-o's conmon", cgroup: besteffort + "crio-conmon-" + idA + ".scope"},
		{name: "cri-dockerd", cgroup: besteffort + "docker-" + idA + ".scope", container: idA},
		{name: "containerd, drivers at odds", cgroup: "/system.slice/containerd.service/kubepods-burstable-pod" + pod + ".slice:cri-containerd:" + idA, container: idA},
		{name: "pod without container", cgroup: besteffort},
		{name: "k3s itself", cgroup: "/system.slice/k3s.service", unit: "k3s.service"},
		{name: "k3s", cgroup: "/kubepods.slice/kubepods-pod" + pod + ".slice/cri-containerd-" + idA + ".scope", container: idA},

		{name: "podman", cgroup: "/machine.slice/libpod-" + idA + ".scope/container", container: idA},
		{name: "podman's conmon", cgroup: "/machine.slice/libpod-conmon-" + idA + ".scope"},
		{name: "podman, rootless", cgroup: "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + idA + ".scope/container", container: idA},
		{name: "podman, rootless pod", cgroup: "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_" + idB + ".slice/libpod-" + idA + ".scope", container: idA},
		{name: "podman, cgroupfs pod", cgroup: "/libpod_parent/libpod_pod_" + idB + "/libpod-" + idA, container: idA},
		{name: "podman, quadlet", cgroup: "/system.slice/web.service/libpod-payload-" + idA, container: idA},
		{name: "podman, quadlet's conmon", cgroup: "/system.slice/web.service/runtime", unit: "web.service"},
		{name: "podman's health check", cgroup: "/system.slice/" + idA + "-5c3.service", unit: idA + "-5c3.service"},

		{name: "upper case is no id", cgroup: "/docker/" + strings.ToUpper(idA)},
		{name: "63 digits are no id", cgroup: "/docker/" + idA[1:]},
		{name: "65 digits are no id", cgroup: "/docker/" + idA + "0"},
		{name: "an id's slice is none", cgroup: "/docker-" + idA + ".slice"},

		{name: "nspawn", cgroup: `/machine.slice/machine-build\x2ddebian.scope/payload/system.slice/cron.service`, container: "build-debian"},
		{name: "nspawn's supervisor", cgroup: `/machine.slice/machine-build\x2ddebian.scope/supervisor`},
		{name: "nspawn, v1", cgroup: "/machine.slice/machine-builder.scope", container: "builder"},
		{name: "nspawn, service", cgroup: `/machine.slice/systemd-nspawn@build\x2ddebian.service/payload/init.scope`, container: "build-debian"},
		{name: "nspawn, service's supervisor", cgroup: "/machine.slice/systemd-nspawn@db.service/supervisor", unit: "systemd-nspawn@db.service"},
		{name: "nspawn in lxc", cgroup: "/lxc.payload.outer/machine.slice/machine-inner.scope/payload", container: "inner"},
		{name: "virtual machine", cgroup: `/machine.slice/machine-qemu\x2d3\x2dweb.scope/libvirt/emulator`, container: "qemu-3-web"},
		{name: "broken escapes", cgroup: `/machine.slice/machine-a\x2\xzz\x.scope`, container: `a\x2\xzz\x`},
		{name: "machine without name", cgroup: "/machine.slice/machine-.scope"},

		{name: "lxc", cgroup: "/lxc.payload.web/init.scope", container: "web"},
		{name: "lxc, docker inside", cgroup: "/lxc.payload.web/docker/" + idA, container: idA},
		{name: "lxc's monitor", cgroup: "/lxc.monitor.web"},
		{name: "lxc, proxmox", cgroup: "/lxc/101/ns/system.slice/postfix.service", container: "101"},
		{name: "lxc, proxmox's monitor", cgroup: "/lxc.monitor/101"},
		{name: "lxc without name", cgroup: "/lxc/"},

		{name: "service", cgroup: "/system.slice/nginx.service", unit: "nginx.service"},
		{name: "service, delegated", cgroup: "/system.slice/systemd-udevd.service/udev", unit: "systemd-udevd.service"},
		{name: "service in a slice", cgroup: "/system.slice/system-getty.slice/getty@tty1.service", unit: "getty@tty1.service"},
		{name: "escaped instance", cgroup: `/system.slice/system-systemd\x2dfsck.slice/systemd-fsck@dev-disk-by\x2duuid-1A2B.service`, unit: `systemd-fsck@dev-disk-by\x2duuid-1A2B.service`},
		{name: "escaped for the cgroup", cgroup: "/system.slice/_memory.service", unit: "memory.service"},
		{name: "snap's service", cgroup: "/system.slice/snap.lxd.daemon.service", unit: "snap.lxd.daemon.service"},
		{name: "transient scope", cgroup: "/system.slice/run-u1234.scope"},
		{name: "removed", cgroup: "/system.slice/nginx.service (deleted)", unit: "nginx.service"},

		{name: "session", cgroup: "/user.slice/user-1000.slice/session-3.scope"},
		{name: "user's manager", cgroup: "/user.slice/user-1000.slice/user@1000.service/init.scope"},
		{name: "user's runtime directory", cgroup: "/user.slice/user-1000.slice/user-runtime-dir@1000.service", unit: "user-runtime-dir@1000.service"},
		{name: "user's application", cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4242.scope"},
		{name: "user's service", cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service", unit: "syncthing.service"},
		{name: "user's desktop", cgroup: "/user.slice/user-1000.slice/user@1000.service/session.slice/org.gnome.Shell@wayland.service", unit: "org.gnome.Shell@wayland.service"},
		{name: "user's service, systemd 245", cgroup: "/user.slice/user-1000.slice/user@1000.service/dbus.service", unit: "dbus.service"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := NewNamer(t.TempDir()).Process(Identity{PID: 42, Comm: "worker", Exe: "/usr/bin/program", Cgroup2: tt.cgroup})
			app := "program"
			if tt.unit != "" {
				app = tt.unit
			}
			if tt.container != "" {
				app = tt.container
			}
			if got.Container != tt.container || got.Unit != tt.unit || got.App != app {
				t.Errorf("%s\n got container %q, unit %q, app %q\nwant container %q, unit %q, app %q",
					tt.cgroup, got.Container, got.Unit, got.App, tt.container, tt.unit, app)
			}
		})
	}
}

func TestNamingChoosesCgroup(t *testing.T) {
	for _, tt := range []struct{ v2, systemd, memory, want string }{
		{"/a", "/b", "/c", "/a"},
		{"/", "/b", "/c", "/b"},
		{"", "/b", "/c", "/b"},
		{"/", "/", "/c", "/c"},
		{"", "", "/c", "/c"},
		{"", "", "", "/"},
		{"/", "", "/", "/"},
		{"/ (deleted)", "/b (deleted)", "", "/b"},
	} {
		id := Identity{Comm: "x", Cgroup2: tt.v2, CgroupSystemd: tt.systemd, CgroupMemory: tt.memory}
		if got := NewNamer(t.TempDir()).Process(id).Cgroup; got != tt.want {
			t.Errorf("cgroups %q, %q, %q: got %q, want %q", tt.v2, tt.systemd, tt.memory, got, tt.want)
		}
	}
}

func TestNamingByExecutable(t *testing.T) {
	for _, tt := range []struct{ exe, comm, wantExe, wantApp string }{
		{"/usr/bin/postgres", "postgres: check", "/usr/bin/postgres", "postgres"},
		{"/usr/bin/postgres (deleted)", "postgres", "/usr/bin/postgres", "postgres"},
		{"/memfd:loader (deleted)", "3", "/memfd:loader", "memfd:loader"},
		{"relative", "x", "relative", "relative"},
		{"/", "x", "/", "x"},
		{"", "zombie", "", "zombie"},
		{"", "", "", "[unnamed]"},
	} {
		got := NewNamer(t.TempDir()).Process(Identity{PID: 7, Exe: tt.exe, Comm: tt.comm})
		if got.Exe != tt.wantExe || got.App != tt.wantApp || got.Comm != tt.comm {
			t.Errorf("exe %q, comm %q: got exe %q, app %q, comm %q", tt.exe, tt.comm, got.Exe, got.App, got.Comm)
		}
	}
}

func TestNamingOfKernelThreads(t *testing.T) {
	for comm, want := range map[string]string{
		"kworker/u8:1-flush-254:0": "[kworker]", "kworker/0:1H": "[kworker]", "kworker/R-rcu_gp": "[kworker]",
		"ksoftirqd/0": "[ksoftirqd]", "migration/1": "[migration]", "cpuhp/12": "[cpuhp]", "swapper/3": "[swapper]",
		"rcuop/3": "[rcuop]", "rcu_preempt": "[rcu_preempt]", "rcu_exp_par_gp_": "[rcu_exp_par_gp_]",
		"irq/24-nvme0q1": "[irq]", "napi/eth0-8193": "[napi]", "kthreadd": "[kthreadd]",

		"jbd2/vda1-8": "[jbd2/vda1]", "jbd2/dm-0-8": "[jbd2/dm-0]", "jbd2/nvme0n1p2-": "[jbd2/nvme0n1p2]",
		"jbd2/dm-1": "[jbd2/dm-1]", "jbd2/sdb1": "[jbd2/sdb1]", "jbd2/nvme10n1p1": "[jbd2/nvme10n1p1]",
		"jbd2/cciss!c0d0p": "[jbd2/cciss!c0d0p]", "jbd2/md_1-8": "[jbd2/md_1]",
		"jbd2": "[jbd2]", "jbd2/": "[jbd2]", "jbd2/-": "[jbd2/-]", "jbd2/-8": "[jbd2/-8]",
		"xfsaild/dm-0": "[xfsaild/dm-0]", "xfsaild/nvme0n1": "[xfsaild/nvme0n1]",
		"xfs-buf/vda1": "[xfs-buf]", "xfs-cil/dm-0": "[xfs-cil]", "btrfs-transacti": "[btrfs-transacti]",
		"btrfs-cleaner": "[btrfs-cleaner]", "kdmflush/254:0": "[kdmflush]", "dmcrypt_write/2": "[dmcrypt_write]",

		"kswapd0": "[kswapd]", "kswapd12": "[kswapd]", "kcompactd1": "[kcompactd]", "kdamond.0": "[kdamond]",
		"scsi_eh_0": "[scsi_eh]", "scsi_tmf_11": "[scsi_tmf]", "vhost-4711": "[vhost]",
		"f2fs_gc-254:0": "[f2fs_gc]", "gfx_0.0.0": "[gfx]",
		"loop0": "[loop0]", "md127_raid1": "[md127_raid1]", "md127_resync": "[md127_resync]", "cfg80211": "[cfg80211]",
		"nfsv4.0-svc": "[nfsv4.0-svc]",

		"": "[unnamed]", "/": "[/]", "/0": "[/0]", "0": "[0]", "_1": "[_1]", "-:": "[-:]",
	} {
		id := Identity{PID: 2, Comm: comm, Kernel: true, Cgroup2: "/system.slice/docker-" + idA + ".scope"}
		got := NewNamer(t.TempDir()).Process(id)
		if got.App != want {
			t.Errorf("%q: got %q, want %q", comm, got.App, want)
		}
		if got.Container != "" || got.Unit != "" || got.Comm != comm || got.Cgroup != id.Cgroup2 {
			t.Errorf("%q: got %+v", comm, got)
		}
	}
}

func TestNamingKeepsIdentity(t *testing.T) {
	started := time.Unix(1_700_000_000, 123)
	got := NewNamer(namingRoot(t, map[string]string{"etc/passwd": "www:x:33:33::/:\n"})).Process(Identity{
		PID: 4242, PPID: 17, Started: started, Comm: "nginx", Exe: "/usr/sbin/nginx",
		CgroupSystemd: "/system.slice/nginx.service", UID: 33,
	})
	want := snapshot.Process{
		PID: 4242, PPID: 17, Started: started, Comm: "nginx", Exe: "/usr/sbin/nginx",
		Cgroup: "/system.slice/nginx.service", Unit: "nginx.service", User: "www", App: "nginx.service",
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestNamingByRuntime(t *testing.T) {
	const (
		docker     = "var/lib/docker/containers/" + idA + "/config.v2.json"
		containerd = "run/containerd/io.containerd.runtime.v2.task/k8s.io/" + idA + "/config.json"
		nerdctl    = "run/containerd/io.containerd.runtime.v2.task/default/" + idA + "/config.json"
		moby       = "run/containerd/io.containerd.runtime.v2.task/moby/" + idA + "/config.json"
		k3s        = "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/" + idA + "/config.json"
		crio       = "run/containers/storage/overlay-containers/" + idA + "/userdata/config.json"
		podman     = "var/lib/containers/storage/overlay-containers/containers.json"
		podmanRm   = "var/lib/containers/storage/overlay-containers/volatile-containers.json"
	)
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"docker", map[string]string{docker: `{"ID":"` + idA + `","Name":"/web","Config":{"Hostname":"h","Labels":{"a":"b"}},"State":{"Running":true}}`}, "web"},
		{"docker without labels", map[string]string{docker: `{"Name":"/web","Config":{"Labels":null}}`}, "web"},
		{"docker before its containerd", map[string]string{docker: `{"Name":"/web"}`, moby: `{"ociVersion":"1.2.0","hostname":"h"}`}, "web"},
		{"cri-dockerd", map[string]string{docker: `{"Name":"/k8s_app_web-0_prod_uid_0","Config":{"Labels":{"io.kubernetes.pod.name":"web-0","io.kubernetes.container.name":"app"}}}`}, "web-0/app"},
		{"cri-dockerd's pod", map[string]string{docker: `{"Name":"/k8s_POD_web-0_prod_uid_0","Config":{"Labels":{"io.kubernetes.pod.name":"web-0","io.kubernetes.container.name":"POD"}}}`}, "web-0"},
		{"containerd", map[string]string{containerd: `{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.container-name":"app"}}`}, "web-0/app"},
		{"containerd's sandbox", map[string]string{containerd: `{"annotations":{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-name":"web-0"}}`}, "web-0"},
		{"containerd, container alone", map[string]string{containerd: `{"annotations":{"io.kubernetes.cri.container-name":"app"}}`}, "app"},
		{"containerd, kubelet's labels", map[string]string{containerd: `{"annotations":{"io.kubernetes.pod.name":"web-0"}}`}, "web-0"},
		{"k3s", map[string]string{k3s: `{"annotations":{"io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.container-name":"app"}}`}, "web-0/app"},
		{"nerdctl", map[string]string{nerdctl: `{"annotations":{"nerdctl/name":"web"}}`}, "web"},
		{"cri-o", map[string]string{crio: `{"annotations":{"io.kubernetes.pod.name":"web-0","io.kubernetes.container.name":"app"}}`,
			podman: `[{"id":"` + idA + `","names":["k8s_app_web-0_prod_uid_0"]}]`}, "web-0/app"},
		{"podman", map[string]string{podman: `[{"id":"` + idB + `","names":["other"]},{"id":"` + idA + `","names":["web","alias"],"metadata":"{}"}]`}, "web"},
		{"podman, run --rm", map[string]string{podman: `[]`, podmanRm: `[{"id":"` + idA + `","names":["web"]}]`}, "web"},
		{"podman without name", map[string]string{podman: `[{"id":"` + idA + `"}]`}, idA},

		{"nothing", nil, idA},
		{"another's", map[string]string{strings.ReplaceAll(docker, idA, idB): `{"Name":"/web"}`}, idA},
		{"empty", map[string]string{docker: ""}, idA},
		{"cut off", map[string]string{docker: `{"Name":"/we`}, idA},
		{"not an object", map[string]string{docker: `[1]`, podman: `{"id":1}`}, idA},
		{"next one tells", map[string]string{docker: "garbage", nerdctl: `{"annotations":{"nerdctl/name":"web"}}`}, "web"},
		{"too large", map[string]string{docker: `{"Name":"/web"}` + strings.Repeat(" ", maxFileSize)}, idA},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := NewNamer(namingRoot(t, tt.files)).Process(Identity{PID: 1, Cgroup2: "/docker/" + idA, Exe: "/bin/sh"})
			if got.App != tt.want || got.Container != tt.want || got.Unit != "" {
				t.Errorf("got app %q, container %q, unit %q, want %q", got.App, got.Container, got.Unit, tt.want)
			}
		})
	}
}

// A reading that waits or fails must cost the name, never the report.
func TestNamingOfOddFiles(t *testing.T) {
	config := "var/lib/docker/containers/" + idA + "/config.v2.json"
	root := namingRoot(t, map[string]string{"etc/passwd/file": "", config + ".tmp": ""})
	if err := syscall.Mkfifo(filepath.Join(root, config), 0o644); err != nil {
		t.Fatal(err)
	}
	named := make(chan snapshot.Process)
	go func() { named <- NewNamer(root).Process(Identity{Cgroup2: "/docker/" + idA, UID: 5}) }()
	select {
	case got := <-named:
		if got.App != idA || got.User != "5" {
			t.Errorf("got app %q, user %q", got.App, got.User)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("waits for a named pipe")
	}
}

func TestNamingRemembersContainers(t *testing.T) {
	config := "var/lib/docker/containers/%s/config.v2.json"
	root := namingRoot(t, map[string]string{fmt.Sprintf(config, idA): `{"Name":"/web"}`})
	n := NewNamer(root)
	app := func(id string) string { return n.Process(Identity{Cgroup2: "/docker/" + id}).App }
	if a, b := app(idA), app(idB); a != "web" || b != idB {
		t.Fatalf("got %q and %q", a, b)
	}
	// The runtime forgets the one and, which does not happen, names the other late.
	if err := os.RemoveAll(filepath.Join(root, "var")); err != nil {
		t.Fatal(err)
	}
	namingWrite(t, root, fmt.Sprintf(config, idB), `{"Name":"/late"}`)
	if a, b := app(idA), app(idB); a != "web" || b != idB {
		t.Errorf("looked again: got %q and %q", a, b)
	}
	for i := range 2 * maxNames {
		if id := fmt.Sprintf("%064x", i); app(id) != id {
			t.Fatalf("container %s: got %q", id, app(id))
		}
		if len(n.names) > maxNames {
			t.Fatalf("%d names are kept", len(n.names))
		}
	}
}

func TestNamingOfUsers(t *testing.T) {
	root := namingRoot(t, map[string]string{"etc/passwd": "#old:x:0:0::/:/bin/sh\nroot:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/root:/bin/sh\nbroken\n\n+::::::\nann:x:1000:1000::/home/ann:/bin/zsh"})
	n := NewNamer(root)
	user := func(uid uint32) string { return n.Process(Identity{UID: uid}).User }
	for uid, want := range map[uint32]string{0: "root", 1000: "ann", 1001: "1001", 1<<32 - 1: "4294967295"} {
		if got := user(uid); got != want {
			t.Errorf("uid %d: got %q, want %q", uid, got, want)
		}
	}

	// useradd writes a new file in place of the old; an editor may keep the inode.
	path := filepath.Join(root, "etc/passwd")
	namingWrite(t, root, "etc/passwd+", "bob:x:1001:1001::/:\n")
	if err := os.Rename(path+"+", path); err != nil {
		t.Fatal(err)
	}
	if got := user(1001); got != "bob" {
		t.Errorf("after a rename: got %q", got)
	}
	namingWrite(t, root, "etc/passwd", "eve:x:1001:1001::/:\n")
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := user(1001); got != "eve" {
		t.Errorf("after an edit: got %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := user(1001); got != "eve" {
		t.Errorf("after the removal: got %q", got)
	}
}

func TestNamingConcurrently(t *testing.T) {
	n := NewNamer(namingRoot(t, map[string]string{"etc/passwd": "ann:x:1:1::/:\n"}))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				id := Identity{PID: i + 1, UID: 1, Cgroup2: fmt.Sprintf("/docker/%064x", i*g)}
				if p := n.Process(id); p.User != "ann" || !strings.HasSuffix(id.Cgroup2, p.App) {
					t.Errorf("got %+v", p)
				}
			}
		})
	}
	wg.Wait()
}

// Whatever the bytes, there is a name, and the fields agree with each other.
func FuzzNaming(f *testing.F) {
	for _, cgroup := range []string{
		"", "/", "//", "/docker/" + idA, "/system.slice/docker-" + idA + ".scope/x.service", "/lxc/", "/lxc.payload.", "/a/lxc",
		`/machine.slice/machine-a\x2db.scope/payload`, `/machine-\x.scope`, "/systemd-nspawn@.service/a", "/user@.service/_.service",
		"/machine-.scope/supervisor", "machine-scope", ".service (deleted)", "/../../" + idB,
	} {
		f.Add(cgroup, "kworker/0:1", "/bin/sh", false)
	}
	for _, comm := range []string{"", "/", "jbd2/", "jbd2/-", "jbd2/dm-0-8", "xfsaild/", "kswapd0", "_0", ":.", "\xff/\x00"} {
		f.Add("/", comm, "", true)
		f.Add("/", comm, "/ (deleted)", false)
	}
	root := namingRoot(f, map[string]string{
		"etc/passwd": "root:x:0:0::/:\n",
		"var/lib/docker/containers/" + idA + "/config.v2.json": `{"Name":"/web"}`,
	})
	f.Fuzz(func(t *testing.T, cgroup, comm, exe string, kernel bool) {
		n := NewNamer(root)
		id := Identity{PID: 1, Comm: comm, Exe: exe, Cgroup2: cgroup, Kernel: kernel}
		p := n.Process(id)
		if again := n.Process(id); again != p {
			t.Errorf("got %+v, then %+v", p, again)
		}
		if p.App == "" || p.Cgroup == "" || p.User != "root" {
			t.Errorf("something has no name: %+v", p)
		}
		if kernel && (p.App[0] != '[' || p.App[len(p.App)-1] != ']' || p.Container+p.Unit != "") {
			t.Errorf("kernel thread: %+v", p)
		}
		if p.Container != "" && (p.Unit != "" || p.App != p.Container) {
			t.Errorf("container: %+v", p)
		}
		if p.Unit != "" && (p.App != p.Unit || strings.HasPrefix(p.Unit, "user@") || !strings.Contains(p.Cgroup, p.Unit)) {
			t.Errorf("unit: %+v", p)
		}
	})
}

func FuzzNamingFiles(f *testing.F) {
	f.Add([]byte(`{"Name":"/web","Config":{"Labels":{"io.kubernetes.pod.name":"p"}},"annotations":{"nerdctl/name":"n"}}`))
	f.Add([]byte(`[{"id":"` + idA + `","names":["web"]},null,{"names":[]}]`))
	f.Add([]byte("root:x:0:0::/:\n::\n:x:\n#:x:1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		describedName(data)
		podmanNames(data)
		passwdNames(data)
	})
}

// A busy host: 2,000 processes in 500 containers, of which half have a name.
func BenchmarkNaming(b *testing.B) {
	files := map[string]string{"etc/passwd": "root:x:0:0::/:\n"}
	var ids []Identity
	for i := range 2000 {
		id := fmt.Sprintf("%064x", i%500)
		ids = append(ids, Identity{PID: i + 1, Cgroup2: "/kubepods.slice/kubepods-pod" + pod + ".slice/cri-containerd-" + id + ".scope"})
		if i%2 == 0 {
			files["run/containerd/io.containerd.runtime.v2.task/k8s.io/"+id+"/config.json"] = `{"annotations":{"io.kubernetes.cri.sandbox-name":"web"}}`
		}
	}
	root := namingRoot(b, files)
	for _, first := range []bool{true, false} {
		b.Run(map[bool]string{true: "first", false: "again"}[first], func(b *testing.B) {
			n := NewNamer(root)
			for b.Loop() {
				if first {
					n = NewNamer(root)
				}
				for _, id := range ids {
					n.Process(id)
				}
			}
		})
	}
}

// What no user's program may look like: the rows of the kernel, and what could not be attributed.
func TestBracketsAreNotForUsers(t *testing.T) {
	for _, id := range []Identity{{PID: 9, Exe: "/tmp/[unattributed: x]"}, {PID: 9, Comm: "[kernel: swap]"}} {
		if app := NewNamer(t.TempDir()).Process(id).App; strings.HasPrefix(app, "[") {
			t.Errorf("%+v is called %s", id, app)
		}
	}
}
