package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// recorder is a culprit record that runs.
type recorder struct {
	*exec.Cmd
	stderr *bytes.Buffer
	ended  chan error
}

// startRecord returns when everything is attached.
func startRecord(t *testing.T, dir string, flags ...string) *recorder {
	t.Helper()
	needRoot(t)
	r := &recorder{exec.Command(program(), append([]string{"record", "--dir", dir}, flags...)...), new(bytes.Buffer), make(chan error, 1)}
	out, err := r.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Process.Kill() })
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		r.stderr.WriteString(line)
		if strings.HasPrefix(line, "recording ") {
			break
		}
		if err != nil {
			t.Fatalf("culprit record: %v: %s", err, r.stderr)
		}
	}
	go func() {
		io.Copy(r.stderr, lines)
		r.ended <- r.Wait()
	}()
	return r
}

// end is Ctrl-C.
func (r *recorder) end(t *testing.T) {
	t.Helper()
	if err := r.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-r.ended; err != nil {
		t.Fatalf("culprit record: %v\n%s", err, r.stderr)
	}
}

// emptyDisk is a disk without a file system: one of those that virtual machines have for tests, or a loop device.
func emptyDisk(t *testing.T, mib int64) (device string) {
	t.Helper()
	needRoot(t)
	if spare, _, _ := strings.Cut(os.Getenv("CULPRIT_TEST_DISKS"), ":"); spare != "" {
		return spare
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, mib<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", device).Run() })
	return device
}

// written is what the kernel has counted of a disk, in bytes.
func written(t *testing.T, device string) uint64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	sectors, err := strconv.ParseUint(strings.Fields(string(text))[6], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return sectors * 512
}

func dd(t *testing.T, device string, mib int) {
	t.Helper()
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+device, "bs=1M", "count="+strconv.Itoa(mib), "oflag=direct", "conv=notrunc", "status=none").CombinedOutput(); err != nil {
		t.Fatalf("dd: %v: %s", err, out)
	}
}

// reported is what a report says of a disk, over all its steps.
type reported struct{ steps, ours, kernel, residual, dd uint64 }

func reportOf(t *testing.T, dir, device string, flags ...string) (sum reported) {
	t.Helper()
	out, err := exec.Command(program(), append([]string{"report", "--dir", dir, "--json", "-n", "0"}, flags...)...).Output()
	if err != nil {
		t.Fatalf("culprit report: %v", err)
	}
	for line := range bytes.Lines(out) {
		var r struct {
			Schema string
			Rows   []struct {
				App, Device string
				WriteBytes  uint64 `json:"write_bytes"`
			}
			Devices []struct {
				Device   string
				Ours     uint64 `json:"write_bytes"`
				Kernel   uint64 `json:"kernel_write_bytes"`
				Residual uint64 `json:"residual_bytes"`
			}
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.Schema != "culprit.io/1" {
			continue
		}
		sum.steps++
		for _, row := range r.Rows {
			if row.App == "dd" && row.Device == device {
				sum.dd += row.WriteBytes
			}
		}
		for _, d := range r.Devices {
			if d.Device == device {
				sum.ours, sum.kernel, sum.residual = sum.ours+d.Ours, sum.kernel+d.Kernel, sum.residual+d.Residual
			}
		}
	}
	return sum
}

// scraped is the page of metrics.
func scraped(t *testing.T, address string) string {
	t.Helper()
	answer, err := http.Get("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// What was recorded is what the kernel counted, to the byte, whatever span is asked for; and what was recorded before the process was
// killed is there.
func TestRecord(t *testing.T) {
	disk, dir := emptyDisk(t, 64), t.TempDir()
	name := filepath.Base(disk)
	r := startRecord(t, dir, "--interval", "1s", "--listen", "127.0.0.1:0")
	address, _, ok := strings.Cut(strings.TrimPrefix(r.stderr.String(), "metrics are at "), "\n")
	before := written(t, disk)
	for range 3 {
		dd(t, disk, 7)
		time.Sleep(700 * time.Millisecond)
	}
	counted := written(t, disk) - before
	time.Sleep(2500 * time.Millisecond) // until that is recorded
	const first = 3 * 7 << 20
	if page, metric := scraped(t, address), fmt.Sprintf("\nculprit_disk_written_bytes_total{app=\"dd\",device=\"%s\"} %v\n", name, float64(first)); !ok || !strings.Contains(page, metric) {
		t.Errorf("at %q there is no %s", address, metric)
	}
	if err := r.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.ended
	if got, want := reportOf(t, dir, name), (reported{1, first, counted, 0, first}); got != want || counted != first {
		t.Errorf("before it was killed it had %+v, want %+v", got, want)
	}
	r = startRecord(t, dir, "--interval", "1s")
	second := exec.Command(program(), "record", "--dir", dir)
	if out, err := second.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("another culprit records there")) {
		t.Errorf("a second one: %v: %s", err, out)
	}
	dd(t, disk, 5)
	r.end(t)
	const all = first + 5<<20
	if got, want := reportOf(t, dir, name), (reported{1, all, written(t, disk) - before, 0, all}); got != want {
		t.Errorf("at the end it has %+v, want %+v", got, want)
	}
	got := reportOf(t, dir, name, "--last", "10m", "--step", "1s")
	if got.steps < 4 || got.ours != all || got.dd != all || got.residual != 0 {
		t.Errorf("by steps it has %+v", got)
	}
	if got := reportOf(t, dir, name, "--app", "sh"); got.dd != 0 || got.ours != all {
		t.Errorf("of another application it has %+v", got)
	}
}

// A collector that says nothing holds up neither the recording nor, for long, its end; what it did not get is said.
func TestRecordWithoutCollector(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	disk, dir := emptyDisk(t, 16), t.TempDir()
	r := startRecord(t, dir, "--interval", "1s", "--otlp", "grpc://"+silent.Addr().String())
	const mib = 3
	dd(t, disk, mib)
	time.Sleep(3500 * time.Millisecond)
	if got := reportOf(t, dir, filepath.Base(disk), "--last", "10m", "--step", "1s"); got.steps < 3 || got.dd != mib<<20 {
		t.Errorf("meanwhile it has %+v", got)
	}
	began := time.Now()
	r.end(t)
	if took := time.Since(began); took > 10*time.Second || !strings.Contains(r.stderr.String(), "intervals that were not pushed to grpc://"+silent.Addr().String()+": ") {
		t.Errorf("the end took %v; it said: %s", took, r.stderr)
	}
}
