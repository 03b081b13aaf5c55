package io

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"culprit/probes/snapshot"
)

// audit compares the sums over rows with the kernel's counters.
func (p *Probe) audit(was, now *reading, rows []snapshot.IORow) []snapshot.IODevice {
	devices := map[string]*snapshot.IODevice{}
	for device, name := range p.devices {
		kernel, ok := now.kernel[name]
		if !ok {
			// It has gone, and the kernel's counters with it: nothing to compare with.
			delete(p.devices, device)
			delete(p.totals, name)
			continue
		}
		then := was.kernel[name]
		if kernel.Less(then) {
			then = snapshot.IOCounts{} // another device took the name, and counts from 0
			delete(p.totals, name)
		}
		devices[name] = &snapshot.IODevice{Device: name, Kernel: kernel.Sub(then)}
	}
	for _, r := range rows {
		if r.Device == "" {
			continue
		}
		d := devices[r.Device]
		if d == nil {
			continue
		}
		d.Ours.Reads += r.Reads
		d.Ours.Writes += r.Writes
		d.Ours.Discards += r.Discards
		d.Ours.Flushes += r.Flushes
		d.Ours.ReadBytes += r.ReadBytes()
		d.Ours.WriteBytes += r.WriteBytes()
		d.Ours.DiscardBytes += r.DiscardBytes
		if r.Unattributed() {
			d.UnattributedBytes += r.Bytes()
		}
	}
	for _, skew := range []map[uint32]uint64{was.skew, now.skew} {
		for device, n := range skew {
			if d := devices[p.deviceName(device)]; d != nil {
				d.SkewBytes += n
			}
		}
	}
	var out []snapshot.IODevice
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if d := devices[name]; d.Ours != (snapshot.IOCounts{}) || d.Kernel != (snapshot.IOCounts{}) {
			out = append(out, *d)
		}
	}
	return out
}

// totals are the sums of all intervals since the probe was loaded.
type totals struct {
	ours, kernel snapshot.IOCounts
	unseen       uint64 // unseen completions when both were last equal
}

// unseen are rows for what completions that reached no program leave open. They are
// found and counted later (charge_unseen() in bpf/io.bpf.c), but not what was merged into
// them after their start, nor the flushes among them. When a device has come to rest with
// every operation accounted for, and there were such completions since its books last balanced, what
// the kernel has more is exactly that.
func (p *Probe) unseen(devices []snapshot.IODevice, completions uint64) []snapshot.IORow {
	var out []snapshot.IORow
	for _, d := range devices {
		t := p.totals[d.Device]
		ours, kernel := t.ours.Add(d.Ours), t.kernel.Add(d.Kernel)
		any := completions > t.unseen
		if d.SkewBytes != 0 || ours.Reads != kernel.Reads || ours.Writes != kernel.Writes || ours.Discards != kernel.Discards {
			continue
		}
		r := snapshot.IORow{Process: p.table.Process(uint32(bpfOwnerOWNER_UNATTRIBUTED_UNSEEN_COMPLETION)), Device: d.Device}
		for _, f := range []struct {
			open         *uint64
			kernel, ours uint64
		}{
			{&r.ReadVia.Direct, kernel.ReadBytes, ours.ReadBytes},
			{&r.WriteVia.Direct, kernel.WriteBytes, ours.WriteBytes},
			{&r.DiscardBytes, kernel.DiscardBytes, ours.DiscardBytes},
			{&r.Flushes, kernel.Flushes, ours.Flushes},
		} {
			if f.kernel > f.ours && (any || p.hides && f.open == &r.Flushes) {
				*f.open = f.kernel - f.ours
			}
		}
		if r.Bytes() > 0 || r.Flushes > 0 {
			out = append(out, r)
		}
	}
	return out
}

// balanceTries is how often counters that do not agree are read: between our program and
// the kernel's own counting of a completion (blk_account_io_completion()), an
// interrupt can keep the CPU for a while.
const balanceTries = 3

// balanced is whether a further reading would not help.
func balanced(devices []snapshot.IODevice) bool {
	return !slices.ContainsFunc(devices, func(d snapshot.IODevice) bool {
		return d.SkewBytes == 0 && (d.ResidualBytes() != 0 || d.ResidualOps() != 0)
	})
}

// readDiskstats reads the kernel's own counters of all disks and partitions
// (Documentation/admin-guide/iostats.rst).
func readDiskstats(path string) (map[string]snapshot.IOCounts, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's disk statistics: %w", err)
	}
	defer f.Close()
	const sector = 512
	out := map[string]snapshot.IOCounts{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 20 { // without flushes before 5.5, without discards before 4.18
			return nil, fmt.Errorf("%s: %d fields in %q, want 20", path, len(fields), lines.Text())
		}
		var n [17]uint64
		for i := range n {
			if n[i], err = strconv.ParseUint(fields[3+i], 10, 64); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
		}
		out[fields[2]] = snapshot.IOCounts{
			Reads: n[0], Writes: n[4], Discards: n[11], Flushes: n[15],
			ReadBytes: n[2] * sector, WriteBytes: n[6] * sector, DiscardBytes: n[13] * sector,
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the kernel's disk statistics: %w", err)
	}
	return out, nil
}
