package recording

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Interval is one of a recording.
type Interval struct {
	Host, Boot, Kernel string
	Snapshot
}

// Read calls each for the intervals of a recording that end in a span, host by host and in the order of their files. It tells of
// what was damaged. An error of each ends it.
func Read(dir string, since, until time.Time, each func(Interval) error) (damage []Damage, err error) {
	hosts, err := hostsOf(dir)
	if err != nil {
		return nil, err
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("reading %s: there is no recording: give a directory that culprit record has written to", dir)
	}
	for _, host := range hosts {
		hours, err := filesOf(dir, host)
		if err != nil {
			return damage, err
		}
		for _, h := range hours {
			if h.begin.After(until) || h.begin.Add(longestHour).Before(since) {
				continue
			}
			bad, err := h.read(func(r *rows) error {
				i := r.Intervals[0]
				if end := fromMicros(i.End); end.After(until) || !end.After(since) {
					return nil
				}
				return each(Interval{unescape(host), i.Boot, i.Kernel, r.snapshot()})
			})
			damage = append(damage, bad...)
			if err != nil {
				return damage, err
			}
		}
	}
	return damage, nil
}

// unescape is the name that escape made a file's of.
func unescape(name string) string {
	if name, err := url.PathUnescape(strings.TrimPrefix(name, "_")); err == nil {
		return name
	}
	return name
}

// longestHour is how long after its beginning the last interval of an hour can end.
const longestHour = 2 * time.Hour

// hostsOf are the names, as they are in paths, of the hosts that a recording is of.
func hostsOf(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(globbed(dir), "date=*", "host=*"))
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, p := range paths {
		hosts = append(hosts, strings.TrimPrefix(filepath.Base(p), "host="))
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), nil
}

// read calls each for the intervals of an hour.
func (h *hour) read(each func(*rows) error) ([]Damage, error) {
	if !h.sealed {
		damage, err := readJournal(h.stem+journalEnding, each)
		if !errors.Is(err, fs.ErrNotExist) {
			return damage, err
		}
		// It has been sealed, or removed, since.
		if _, err := os.Stat(tablePath(h.stem, intervals)); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	all := map[int64]*rows{}
	var ends []int64
	for _, t := range tables {
		err := t.read(tablePath(h.stem, t.name), func(end int64) *rows {
			r := all[end]
			if r == nil {
				r = &rows{}
				all[end] = r
				ends = append(ends, end)
			}
			return r
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(ends)
	for _, end := range ends {
		if len(all[end].Intervals) == 0 {
			continue
		}
		if err := each(all[end]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
