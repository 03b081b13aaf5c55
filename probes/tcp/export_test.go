package tcp

import (
	"culprit/probes/hook"
	"culprit/probes/internal/livetest"
)

// WhileBlind runs f while changes of connections' states reach no program.
func (p *Probe) WhileBlind(f func()) error {
	return livetest.WhileBlind(&p.links, p.objects, f, bpfProgStateChanged, bpfProgStateChanged+hook.Again)
}
