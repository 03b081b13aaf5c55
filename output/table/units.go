package table

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// The widths of the columns that numbers stand in.
const (
	bytesWidth    = 7
	countWidth    = 6
	durationWidth = 6
	shareWidth    = 5
)

// size is n bytes in IEC units, in at most bytesWidth columns.
func size(n uint64) string {
	if n == 0 {
		return "-"
	}
	s := humanize.IBytes(n)
	if len(s) > bytesWidth { // 1000 to 1024 of a unit
		s = strings.ReplaceAll(s, " ", "")
	}
	return s
}

// count is n, from a million on in SI units, in at most countWidth columns.
func count(n uint64) string {
	if n == 0 {
		return "-"
	}
	if n < 1_000_000 {
		return strconv.FormatUint(n, 10)
	}
	return strings.ReplaceAll(humanize.SIWithDigits(float64(n), 1, ""), " ", "")
}

// duration is ns with three digits, in at most durationWidth columns.
func duration(ns uint64) string {
	switch {
	case ns == 0:
		return "-"
	case ns < 1000:
		return fmt.Sprintf("%dns", ns)
	}
	v := float64(ns)
	for _, u := range []struct {
		name  string
		ratio float64 // to the unit before
		limit float64 // from which on the next unit is taken
	}{
		{"µs", 1e3, 999.5}, {"ms", 1e3, 999.5}, {"s", 1e3, 9999.5}, {"h", 3600, 99999.5}, {"y", 8766, 1e5},
	} {
		v /= u.ratio
		if v >= u.limit {
			continue
		}
		digits := 0
		switch {
		case v < 9.995:
			digits = 2
		case v < 99.95:
			digits = 1
		}
		return strconv.FormatFloat(v, 'f', digits, 64) + u.name
	}
	panic("unreachable: 64 bits of nanoseconds are 585 years")
}

// percent is part of whole, rounded down: 100 is all of it.
func percent(part, whole uint64) int {
	if part == whole {
		return 100
	}
	// The quotient of large numbers may round up to 1.
	return min(int(100*(float64(part)/float64(whole))), 99)
}

// share is part of whole in percent, with a digit after the point, in at most
// shareWidth columns. 100.0 is all of it, and what is not 0 is seen.
func share(part, whole uint64) string {
	percent := 100 * (float64(part) / float64(whole))
	switch {
	case part == 0:
		return "-"
	case part == whole:
		return "100.0"
	case percent < 0.05:
		return "<0.1"
	}
	return strconv.FormatFloat(min(percent, 99.9), 'f', 1, 64)
}

// plural is a number and what it counts.
func plural(n uint64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "s") || strings.HasSuffix(one, "ch") {
		one += "e"
	}
	return fmt.Sprintf("%d %ss", n, one)
}
