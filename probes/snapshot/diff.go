package snapshot

import "time"

// Diff is what two spans of recordings differ in.
type Diff struct {
	By         By
	A, B       Span
	Confidence float64  // that all of Changes is more than chance
	Changes    []Change // the largest first
	Same       int      // quantities in which no difference was found, or one that is small
	TooLittle  int      // of which too little is known to find any difference, among so many
}

// Span is one of the two.
type Span struct {
	Name       string
	Start, End time.Time
	Machines   int
	Blocks     int           // that it was divided into: what is compared is theirs
	Block      time.Duration // how long each is
}

// Change is a quantity of a group of processes that is another in B.
type Change struct {
	Name     string // of the group
	Quantity string // such as read_bytes_per_s or wait_p99_ns, by the names of the JSON contract
	Unit     Unit
	A, B     Estimate
	P        float64 // that what is at least as different would be found by chance, were there no difference; of this quantity alone
}

// Ratio is B's value as a part of A's; infinity if there was none in A.
func (c Change) Ratio() float64 { return c.B.Value / c.A.Value }

// Unit is what a quantity is counted in.
type Unit string

// The units of quantities. Rates are those of one machine.
const (
	BytesPerSecond Unit = "bytes/s"
	PerSecond      Unit = "1/s"
	Share          Unit = "s/s" // of time, by all threads: 2 is two CPUs
	Nanoseconds    Unit = "ns"
)

// Estimate is the median of a span's blocks, and between what it is with a confidence of 95 %, if nothing more is known than these; or, where
// most blocks of either span have nothing, the mean: it is 0 if none has anything.
type Estimate struct{ Value, Low, High float64 }

// Top is the diff with at most n changes, all if n is 0, and how many that left out.
func (d Diff) Top(n int) (Diff, int) {
	omitted := 0
	if n > 0 && n < len(d.Changes) {
		omitted, d.Changes = len(d.Changes)-n, d.Changes[:n]
	}
	return d, omitted
}
