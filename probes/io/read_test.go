package io

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"culprit/probes/snapshot"
)

func fixture(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Fields of Documentation/admin-guide/iostats.rst: those that count operations and sectors, and not
// the merges and times between them.
func TestReadDiskstats(t *testing.T) {
	got, err := readDiskstats(fixture(t, `   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 254       0 vda 12 1 345 2 67 3 890 4 0 5 6 78 7 91 8 11 9
 254       1 vda1 1 1 8 2 3 3 16 4 0 5 6 7 7 8 8 0 9
 259       2 nvme0n1 18446744073709551615 0 4294967296 0 1 0 1 0 0 0 0 1 0 1 0 1 0 1 1 1
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]snapshot.IOCounts{
		"loop0": {},
		"vda":   {Reads: 12, Writes: 67, Discards: 78, Flushes: 11, ReadBytes: 345 * 512, WriteBytes: 890 * 512, DiscardBytes: 91 * 512},
		"vda1":  {Reads: 1, Writes: 3, Discards: 7, ReadBytes: 4096, WriteBytes: 8192, DiscardBytes: 4096},
		"nvme0n1": {Reads: math.MaxUint64, Writes: 1, Discards: 1, Flushes: 1, ReadBytes: 1 << 41, WriteBytes: 512,
			DiscardBytes: 512},
	} {
		if got[name] != want {
			t.Errorf("%s: got %+v, want %+v", name, got[name], want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%d disks, want 4", len(got))
	}
}

// A layout that is not understood must not become a wrong number.
func TestReadDiskstatsRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a kernel without flushes": " 254 0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n",
		"no number":                " 254 0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 x 17\n",
		"cut off":                  " 254 0 vda\n",
	} {
		if got, err := readDiskstats(fixture(t, text)); err == nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if _, err := readDiskstats(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that does not exist was read")
	}
}

func TestReadMounts(t *testing.T) {
	m := readMounts(fixture(t, strings.Join([]string{
		`22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard`,
		`30 22 254:0 /srv/data /data rw - ext4 /dev/vda rw`, // a bind mount shows less of it
		`31 22 7:3 /sub /mnt/a\040space\011and\134more rw - xfs /dev/loop3 rw`,
		`32 22 0:45 / /pool rw shared:2 master:1 - btrfs /dev/nvme0n1p2 rw`, // any number of optional fields
		`33 22 8:1 / /odd rw - fuseblk`,
		`a line that is none`,
		`34 22 x:y / /bad rw - ext4 /dev/sda rw`,
	}, "\n")))
	const vda, loop3, pool, odd = 254 << 20, 7<<20 | 3, 45, 8<<20 | 1
	for _, c := range []struct {
		device     uint32
		file       string
		path, name string
	}{
		{vda, "/srv/data/x", "/srv/data/x", "vda"},
		{loop3, "/sub/x", "/mnt/a space\tand\\more/x", "loop3"},
		{loop3, "/elsewhere/x", "/elsewhere/x", "loop3"},
		{loop3, "/subway/x", "/subway/x", "loop3"},
		{pool, "/x", "/pool/x", "nvme0n1p2"},
		{odd, "/x", "/odd/x", "8:1"},
		{99 << 20, "/x", "/x", "99:0"},
	} {
		if got := m.path(c.device, c.file); got != c.path {
			t.Errorf("%s on %d: got %q, want %q", c.file, c.device, got, c.path)
		}
		if got := m.device(c.device); got != c.name {
			t.Errorf("device %d: got %q, want %q", c.device, got, c.name)
		}
	}
	if len(m) != 4 {
		t.Errorf("%d file systems, want 4: %v", len(m), m)
	}
	if m := readMounts(filepath.Join(t.TempDir(), "none")); len(m) != 0 {
		t.Errorf("got %v of no file", m)
	}
}

func TestReadDevice(t *testing.T) {
	for text, want := range map[string]uint32{"254:0\n": 254 << 20, "7:3": 7<<20 | 3, "4095:1048575\n": math.MaxUint32} {
		if got, err := readDevice(fixture(t, text)); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "254", "x:1", "1:x", "4096:0", "0:1048576", "-1:0"} {
		if got, err := readDevice(fixture(t, text)); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}

// What a row grew by is counted once, whichever way it came, and nothing of another owner's row that
// had the place before.
func TestAddRow(t *testing.T) {
	var n, w bpfIoRow
	for via := range n.Bytes {
		n.Bytes[via], w.Bytes[via] = uint64(1000+1<<via), 1000
	}
	for op := range n.Ops {
		n.Ops[op], w.Ops[op] = uint64(10+op), 9
	}
	n.Owner, w.Owner = 40, 40
	var r snapshot.IORow
	addRow(&r, n, w, [2]latency{}, [2]latency{}, 0, false)
	var moved uint64
	for via := range n.Bytes {
		if bpfIoVia(via) != bpfIoViaVIA_FLUSH {
			moved += n.Bytes[via] - w.Bytes[via]
		}
	}
	if r.Bytes() != moved {
		t.Errorf("%d bytes, want %d", r.Bytes(), moved)
	}
	if r.Reads != 1 || r.Writes != 2 || r.Discards != 3 || r.Flushes != 4 {
		t.Errorf("got %d, %d, %d, %d operations, want 1, 2, 3, 4", r.Reads, r.Writes, r.Discards, r.Flushes)
	}
}
