package tcp

import (
	"errors"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"culprit/probes/hook"
)

// WhileBlind runs f while changes of connections' states reach no program, as where the kernel keeps them from all programs.
func (p *Probe) WhileBlind(f func()) (err error) {
	changes := map[ebpf.ProgramID]string{}
	for _, name := range []string{bpfProgStateChanged, bpfProgStateChanged + hook.Again} {
		if program := p.objects.Programs[name]; program != nil {
			info, err := program.Info()
			if err != nil {
				return err
			}
			id, _ := info.ID()
			changes[id] = name
		}
	}
	p.links = slices.DeleteFunc(p.links, func(l link.Link) bool {
		info, failed := l.Info()
		if failed != nil {
			err = errors.Join(err, failed)
			return false
		}
		_, change := changes[info.Program]
		if change {
			err = errors.Join(err, l.Close())
		}
		return change
	})
	if err != nil {
		return err
	}
	f()
	for _, name := range changes {
		err = errors.Join(err, p.links.Attach(name, p.objects.Programs[name]))
	}
	return err
}
