package hook

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Links keep programs attached.
type Links []link.Link

// Attach attaches a program to the tracepoint that it was compiled for.
func (l *Links) Attach(name string, program *ebpf.Program) error {
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return fmt.Errorf("attaching %s: %w", name, err)
	}
	*l = append(*l, attached)
	return nil
}

// AttachAll attaches the programs of an object that are for tracepoints, in no order, but for some by name.
func (l *Links) AttachAll(spec *ebpf.CollectionSpec, objects *ebpf.Collection, but ...string) error {
	for name, p := range spec.Programs {
		if p.AttachType != ebpf.AttachTraceRawTp || slices.Contains(but, name) {
			continue
		}
		if err := l.Attach(name, objects.Programs[name]); err != nil {
			return err
		}
	}
	return nil
}

// Close detaches the programs.
func (l Links) Close() error {
	var errs []error
	for _, attached := range l {
		errs = append(errs, attached.Close())
	}
	return errors.Join(errs...)
}
