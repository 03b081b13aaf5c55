package owner

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// runtimeFiles are where runtimes describe the container of an id, all but
// podman's. They are written before the container's first process runs, so that a
// container without one now will not have one later.
var runtimeFiles = [...]string{
	"var/lib/docker/containers/%s/config.v2.json",
	"run/containerd/io.containerd.runtime.v2.task/k8s.io/%s/config.json",
	"run/containerd/io.containerd.runtime.v2.task/moby/%s/config.json",
	"run/containerd/io.containerd.runtime.v2.task/default/%s/config.json",
	"run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/%s/config.json", // RKE2's too
	"run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io/%s/config.json",
	"run/containers/storage/overlay-containers/%s/userdata/config.json", // CRI-O
}

// containerName is the name that a runtime gave to the container, or "". An id is
// safe in a path: it is 64 hexadecimal digits.
func (n *Namer) containerName(id string) string {
	name, known := n.names[id]
	if known {
		return name
	}
	for _, format := range runtimeFiles {
		if name = describedName(readRuntimeFile(filepath.Join(n.root, fmt.Sprintf(format, id)))); name != "" {
			break
		}
	}
	for i := 0; name == "" && i < len(n.podman); i++ {
		name = n.podman[i].lookup(id)
	}
	if len(n.names) >= maxNames {
		clear(n.names)
	}
	n.names[id] = name
	return name
}

// describedName reads a container's name off docker's config.v2.json or an OCI
// bundle's config.json.
func describedName(data []byte) string {
	var described struct {
		Name        string
		Config      struct{ Labels map[string]string }
		Annotations map[string]string
	}
	if len(data) == 0 || json.Unmarshal(data, &described) != nil {
		return ""
	}
	// containerd's CRI plugin has annotations of its own (internal/cri/annotations);
	// CRI-O passes on the kubelet's labels as annotations, cri-dockerd as labels.
	for _, tags := range [...]map[string]string{described.Annotations, described.Config.Labels} {
		pod := cmp.Or(tags["io.kubernetes.cri.sandbox-name"], tags["io.kubernetes.pod.name"])
		container := cmp.Or(tags["io.kubernetes.cri.container-name"], tags["io.kubernetes.container.name"])
		// The container that holds the pod's namespaces is the pod's own. No other
		// can have that name, which has to be in lower case.
		if container == "POD" {
			container = ""
		}
		if pod != "" && container != "" {
			return pod + "/" + container
		}
		if name := cmp.Or(pod, container, tags["nerdctl/name"]); name != "" {
			return name
		}
	}
	return strings.TrimPrefix(described.Name, "/")
}

// podmanNames reads the names by id off podman's list of containers.
func podmanNames(data []byte) map[string]string {
	var containers []struct {
		ID    string
		Names []string
	}
	if json.Unmarshal(data, &containers) != nil {
		return nil
	}
	names := make(map[string]string, len(containers))
	for _, c := range containers {
		if len(c.Names) > 0 {
			names[c.ID] = c.Names[0]
		}
	}
	return names
}

// passwdNames reads the names by uid off a passwd(5) file. The first of several
// is the one, as for getpwuid(3).
func passwdNames(data []byte) map[string]string {
	names := map[string]string{}
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(line, ":")
		if len(fields) < 3 || strings.HasPrefix(line, "#") {
			continue
		}
		if _, taken := names[fields[2]]; !taken {
			names[fields[2]] = fields[0]
		}
	}
	return names
}

// watchedFile is a file of names, read again when it changes. While it is missing
// its last names stand.
type watchedFile struct {
	path  string
	parse func([]byte) map[string]string
	seen  os.FileInfo // of the version that names is of
	names map[string]string
}

func (w *watchedFile) lookup(key string) string {
	info, err := os.Stat(w.path)
	if err == nil && (!os.SameFile(w.seen, info) || !info.ModTime().Equal(w.seen.ModTime()) || info.Size() != w.seen.Size()) {
		w.seen, w.names = info, w.parse(readRuntimeFile(w.path))
	}
	return w.names[key]
}

// maxFileSize is far above what the files that are read here come to.
const maxFileSize = 8 << 20

// readRuntimeFile is the content of a regular file of sane size, else nil. It does
// not wait on a named pipe.
func readRuntimeFile(path string) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFileSize {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize))
	if err != nil {
		return nil
	}
	return data
}
