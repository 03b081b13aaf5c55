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
	Recorded           time.Duration // how much of its time: of a sum there can be gaps
	Snapshot
}

// Query says what is read of a recording.
type Query struct {
	Since, Until time.Time // intervals end after the first, and not after the second
	// Merged says whether what ends from a first to a last time can come as one, as it then does if there is a sum of it; nil: nothing can.
	Merged func(first, last time.Time) bool
	Apps   []string // rows of others may be left out; none: all are wanted
	Hosts  []string // of others nothing is opened; none: all are wanted
}

// Read calls each for the intervals of a recording, host by host and in the order of their files. It tells of what was damaged. An error
// of each ends it.
func Read(dir string, q Query, each func(Interval) error) (damage []Damage, err error) {
	hosts, err := hostsOf(dir)
	if err != nil {
		return nil, err
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("reading %s: there is no recording: give a directory that culprit record has written to", dir)
	}
	if hosts, err = chosen(hosts, q.Hosts); err != nil {
		return nil, fmt.Errorf("reading %s: %w", dir, err)
	}
	for _, host := range hosts {
		hours, err := filesOf(dir, host)
		if err != nil {
			return damage, err
		}
		give := func(r *rows) error {
			i := r.Intervals[0]
			if end := fromMicros(i.End); end.After(q.Until) || !end.After(q.Since) {
				return nil
			}
			return each(Interval{unescape(host), i.Boot, i.Kernel, time.Duration(i.recorded()), r.snapshot()})
		}
		// whole reads a sum of so many hours, if it is one of what can come as one.
		whole := func(first *hour, level, hours int) (bool, error) {
			stem := first.sums[level]
			if stem == "" || q.Merged == nil || !first.begin.After(q.Since) {
				return false, nil
			}
			i, err := readInterval(stem)
			if end := fromMicros(i.End); err == nil && (int(i.Hours) != hours || end.After(q.Until) || !q.Merged(first.begin, end)) {
				return false, nil
			}
			if err == nil {
				err = readTables(stem, q.Apps, give)
			}
			if bad := new(tableError); errors.As(err, &bad) { // damaged, or removed since: what it is the sum of says the same
				return false, nil
			}
			return true, err
		}
		for day := range daysOf(hours) {
			if ok, err := whole(day[0], daySum, len(day)); err != nil {
				return damage, err
			} else if ok {
				continue
			}
			for _, h := range day {
				// Where the clock was set back, what is in an hour can end before its beginning.
				if h.begin.Truncate(time.Hour).After(q.Until) || h.begin.Add(longestHour).Before(q.Since) {
					continue
				}
				if ok, err := whole(h, hourSum, 1); err != nil {
					return damage, err
				} else if ok {
					continue
				}
				bad, err := h.read(q.Apps, give)
				damage = append(damage, bad...)
				if err != nil {
					return damage, err
				}
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

// chosen are those of the hosts, as they are in paths, that are wanted, or all if none are. What is not there is an error.
func chosen(hosts, wanted []string) (out []string, err error) {
	if len(wanted) == 0 {
		return hosts, nil
	}
	for _, name := range wanted {
		if host := escape(name); slices.Contains(hosts, host) {
			out = append(out, host)
			continue
		}
		return nil, fmt.Errorf("there is no host %q: there are %s", name, strings.Join(each(hosts, unescape), ", "))
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// read calls each for the intervals of an hour, with the rows of applications, and maybe of others.
func (h *hour) read(apps []string, each func(*rows) error) ([]Damage, error) {
	if !h.sealed {
		damage, err := readJournal(h.stem+journalEnding, each)
		if !errors.Is(err, fs.ErrNotExist) {
			return damage, err
		}
		// It has been sealed, or removed, since.
		if !isWhole(h.stem) {
			return nil, nil
		}
	}
	err := readTables(h.stem, apps, each)
	if bad := new(tableError); errors.As(err, &bad) {
		info, statErr := os.Stat(bad.path)
		if statErr != nil {
			return nil, err
		}
		return []Damage{{bad.path, 0, info.Size()}}, nil
	}
	return nil, err
}
