package perfetto

import "culprit/probes/snapshot"

// connections are those of an application.
type connections struct {
	events uint64 // the track of what takes no time
	stalls lanes
}

func (w *Writer) connections(app string) *connections {
	c := w.apps[app]
	if c == nil {
		name := app
		if name == "" {
			name = "unknown"
		}
		track := w.child(w.top("TCP"), name)
		c = &connections{events: w.child(track, "events"), stalls: lanes{parent: track, name: "stalls"}}
		w.apps[app] = c
	}
	return c
}

func (w *Writer) tcp(t snapshot.Trace) {
	for i := range t.TCPStates {
		s := &t.TCPStates[i]
		w.event(s.At, typeInstant, w.connections(s.App).events, func() {
			w.title("tcp.state", s.To)
			w.text("old_state", s.From)
			w.text("new_state", s.To)
			w.connection(s.Moment, &s.Causer, &s.Ends)
		})
	}
	for i := range t.TCPRetransmissions {
		r := &t.TCPRetransmissions[i]
		w.event(r.At, typeInstant, w.connections(r.App).events, func() {
			w.title("tcp.retransmit", "retransmission")
			w.text("state", r.State)
			w.connection(r.Moment, &r.Causer, &r.Ends)
		})
	}
	for i := range t.TCPStalls {
		s := &t.TCPStalls[i]
		w.slice(&w.connections(s.App).stalls, s.At, s.Duration, func() {
			w.title("tcp.stall", s.Cause)
			w.arg("waiting_bytes", s.Waiting)
			w.id("reader_tid", s.ReaderTID)
			w.connection(s.Moment, &s.Causer, &s.Ends)
		})
	}
}

// connection says whose connection the event at work is of, and which, and where it was.
func (w *Writer) connection(m snapshot.Moment, c *snapshot.Causer, e *snapshot.Ends) {
	w.arg("cpu", int64(m.CPU))
	w.causer(c)
	w.text("local", e.Local)
	w.text("remote", e.Remote)
	w.arg("netns", e.Namespace)
}
