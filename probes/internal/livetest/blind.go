package livetest

import (
	"errors"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"culprit/probes/hook"
)

// WhileBlind runs f while events do not reach those of a probe's programs that are named, as where the kernel keeps them from all programs.
func WhileBlind(links *hook.Links, objects *ebpf.Collection, f func(), names ...string) (err error) {
	blind := map[ebpf.ProgramID]string{}
	for _, name := range names {
		if program := objects.Programs[name]; program != nil {
			info, err := program.Info()
			if err != nil {
				return err
			}
			id, _ := info.ID()
			blind[id] = name
		}
	}
	*links = slices.DeleteFunc(*links, func(l link.Link) bool {
		info, failed := l.Info()
		if failed != nil {
			err = errors.Join(err, failed)
			return false
		}
		_, is := blind[info.Program]
		if is {
			err = errors.Join(err, l.Close())
		}
		return is
	})
	if err != nil {
		return err
	}
	f()
	for _, name := range blind {
		err = errors.Join(err, links.Attach(name, objects.Programs[name]))
	}
	return err
}
