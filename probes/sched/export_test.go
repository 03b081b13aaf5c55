package sched

import "culprit/probes/internal/livetest"

// WhileBlind runs f while context switches reach no program.
func (p *Probe) WhileBlind(f func()) error {
	return livetest.WhileBlind(&p.links, p.objects, f, bpfProgThreadSwitch)
}
