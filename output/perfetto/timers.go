package perfetto

import (
	"strconv"

	"culprit/probes/snapshot"
)

// timers appends what the kernel's timers did: on tracks of each CPU, where one can interrupt another.
func (w *Writer) timers(t snapshot.Trace) {
	for i := range t.Timers {
		timer := &t.Timers[i]
		c := w.cpu(timer.CPU)
		if c.timers.parent == 0 {
			c.timers = lanes{parent: w.top("timers"), name: "timers CPU " + strconv.Itoa(int(timer.CPU))}
		}
		w.slice(&c.timers, timer.At, timer.Duration, func() {
			w.title("timer", timer.Function)
			w.arg("cpu", int64(timer.CPU))
			w.id("tid", timer.TID)
			if timer.HighRes {
				w.arg("high_resolution", 1)
			}
		})
	}
}
