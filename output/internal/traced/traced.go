// Package traced is the one list of the kinds of events in a snapshot.Trace, for the outputs that write all of them alike.
package traced

import (
	"cmp"
	"iter"
	"reflect"
	"slices"

	"culprit/output/internal/parts"
	"culprit/probes/snapshot"
)

// Rows are one of the slices of a snapshot.Trace.
type Rows struct {
	Name string
	Doc  string
	Type reflect.Type // of a row, a struct

	Len   func(t *snapshot.Trace) int
	Row   func(t *snapshot.Trace, i int) any                  // a pointer to the i-th
	Grow  func(t *snapshot.Trace) any                         // adds a row that is zero, and points to it
	Table func(dir string) (Table, error)                     // a new table for such rows
	Parts func(dir string, part int, t *snapshot.Trace) error // adds the rows in a part of such a table
}

// Kind is one kind of event: its rows have a Moment.
type Kind struct {
	Rows
	At func(t *snapshot.Trace, i int) int64
}

// Table holds rows of one kind in Parquet.
type Table interface {
	// Add takes the rows of t.
	Add(t *snapshot.Trace) error
	// Seal writes what was added since the last as a part.
	Seal(part int) error
}

// Kinds are all kinds of events.
var Kinds = []Kind{
	kind("sched.switch", "context switch", func(t *snapshot.Trace) *[]snapshot.SchedSwitch { return &t.Switches }),
	kind("sched.wakeup", "somebody wakes a thread", func(t *snapshot.Trace) *[]snapshot.SchedWakeup { return &t.Wakeups }),
	kind("sched.migrate", "a thread goes to another CPU's run queue", func(t *snapshot.Trace) *[]snapshot.SchedMigrate { return &t.Migrations }),
	kind("sched.throttle", "a thread goes off its CPU because its cgroup has used up its quota", func(t *snapshot.Trace) *[]snapshot.SchedThrottle { return &t.Throttled }),
	kind("process.begin", "a new thread, or process where tid and pid are equal", func(t *snapshot.Trace) *[]snapshot.ProcessBegin { return &t.Begun }),
	kind("process.exec", "a process executes a program, whose name it has from then on", func(t *snapshot.Trace) *[]snapshot.ProcessExec { return &t.Executed }),
	kind("process.end", "a thread ends", func(t *snapshot.Trace) *[]snapshot.ProcessEnd { return &t.Ended }),
	kind("irq", "an interrupt of a device ends", func(t *snapshot.Trace) *[]snapshot.IRQ { return &t.IRQs }),
	kind("softirq", "a softirq ends", func(t *snapshot.Trace) *[]snapshot.Softirq { return &t.Softirqs }),
	kind("signal", "a signal is sent", func(t *snapshot.Trace) *[]snapshot.Signal { return &t.Signals }),
	kind("oom.kill", "the kernel kills a process for want of memory", func(t *snapshot.Trace) *[]snapshot.OOMKill { return &t.OOMKills }),
	kind("page.fault", "memory is used which is not there yet", func(t *snapshot.Trace) *[]snapshot.PageFault { return &t.Faults }),
	kind("syscall", "a system call begins, or ends", func(t *snapshot.Trace) *[]snapshot.Syscall { return &t.Syscalls }),
	kind("timer", "a timer of the kernel's has run out, and what it does then ends", func(t *snapshot.Trace) *[]snapshot.Timer { return &t.Timers }),
	kind("io.queue", "a request begins, and waits for its disk", func(t *snapshot.Trace) *[]snapshot.IOQueue { return &t.IOQueued }),
	kind("io.issue", "a disk is given a request", func(t *snapshot.Trace) *[]snapshot.IOIssue { return &t.IOIssued }),
	kind("io.merge", "a request becomes part of another one", func(t *snapshot.Trace) *[]snapshot.IOMerge { return &t.IOMerged }),
	kind("io.complete", "a request ends", func(t *snapshot.Trace) *[]snapshot.IOComplete { return &t.IOCompleted }),
	kind("io.throttle", "a thread has to pause, because too much is to be written back", func(t *snapshot.Trace) *[]snapshot.IOThrottle { return &t.IOThrottled }),
	kind("tcp.state", "a connection goes from one state to another", func(t *snapshot.Trace) *[]snapshot.TCPStateChange { return &t.TCPStates }),
	kind("tcp.retransmit", "a segment is sent again", func(t *snapshot.Trace) *[]snapshot.TCPRetransmit { return &t.TCPRetransmissions }),
	kind("tcp.stall", "a connection goes on after a pause", func(t *snapshot.Trace) *[]snapshot.TCPStallEnd { return &t.TCPStalls }),
}

// Threads are the names of threads, which are no events.
var Threads = rows("thread", "a thread is new, or has a new name", func(t *snapshot.Trace) *[]snapshot.Thread { return &t.Threads })

func kind[T interface{ Time() int64 }](name, doc string, of func(*snapshot.Trace) *[]T) Kind {
	k := Kind{Rows: rows(name, doc, of)}
	k.At = func(t *snapshot.Trace, i int) int64 { return (*of(t))[i].Time() }
	read := k.Parts
	k.Parts = func(dir string, part int, t *snapshot.Trace) error {
		err := read(dir, part, t)
		// Of the batches in a part, one can begin before the end of the one before.
		slices.SortStableFunc(*of(t), func(a, b T) int { return cmp.Compare(a.Time(), b.Time()) })
		return err
	}
	return k
}

func rows[T any](name, doc string, of func(*snapshot.Trace) *[]T) Rows {
	return Rows{
		Name: name,
		Doc:  doc,
		Type: reflect.TypeFor[T](),
		Len:  func(t *snapshot.Trace) int { return len(*of(t)) },
		Row:  func(t *snapshot.Trace, i int) any { return &(*of(t))[i] },
		Grow: func(t *snapshot.Trace) any {
			rows := of(t)
			*rows = append(*rows, *new(T))
			return &(*rows)[len(*rows)-1]
		},
		Table: func(dir string) (Table, error) {
			w, err := parts.New[T](dir)
			return table[T]{w, of}, err
		},
		Parts: func(dir string, part int, t *snapshot.Trace) error {
			more, err := parts.Read[T](dir, part)
			*of(t) = append(*of(t), more...)
			return err
		},
	}
}

type table[T any] struct {
	*parts.Writer[T]
	of func(*snapshot.Trace) *[]T
}

func (w table[T]) Add(t *snapshot.Trace) error { return w.Writer.Add(*w.of(t)) }

// InOrder are the events of all kinds in the order of time, each with its index among its kind.
func InOrder(t *snapshot.Trace) iter.Seq2[*Kind, int] {
	type head struct {
		kind *Kind
		i, n int
		at   int64
	}
	return func(yield func(*Kind, int) bool) {
		var heads []head
		for k := range Kinds {
			if n := Kinds[k].Len(t); n > 0 {
				heads = append(heads, head{&Kinds[k], 0, n, Kinds[k].At(t, 0)})
			}
		}
		for len(heads) > 0 {
			first := 0
			for h := range heads {
				if heads[h].at < heads[first].at {
					first = h
				}
			}
			h := &heads[first]
			if !yield(h.kind, h.i) {
				return
			}
			if h.i++; h.i < h.n {
				h.at = h.kind.At(t, h.i)
			} else {
				heads = slices.Delete(heads, first, first+1)
			}
		}
	}
}

// Field is one of what is known of an event.
type Field struct {
	Name, Type, Doc string
}

// Fields are those of each row, in their order.
func (r Rows) Fields() []Field {
	var out []Field
	for _, f := range reflect.VisibleFields(r.Type) {
		if !f.Anonymous {
			out = append(out, Field{Name: f.Tag.Get("json"), Type: f.Type.String(), Doc: f.Tag.Get("doc")})
		}
	}
	return out
}

// Lost are the counters of losses that are not 0, by their names.
func Lost(t *snapshot.Trace) map[string]uint64 {
	lost := map[string]uint64{}
	for _, l := range t.Loss {
		if l.Count > 0 {
			lost[l.Name] = l.Count
		}
	}
	return lost
}
