package hook

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf/btf"
)

// Need is something that a kernel has only if it was built with an option: a member of a struct tells.
type Need struct{ Struct, Member, Option string }

// NotBuiltIn is the error for an option that a kernel was built without.
type NotBuiltIn struct{ Option string }

func (e NotBuiltIn) Error() string { return "this kernel was built without " + e.Option }

// Met is whether the kernel with these types has everything: the error is a NotBuiltIn for the first that it lacks.
func Met(kernel *btf.Spec, needs []Need) error {
	for _, n := range needs {
		var s *btf.Struct
		if err := kernel.TypeByName(n.Struct, &s); err != nil && !errors.Is(err, btf.ErrNotFound) {
			return fmt.Errorf("looking for struct %s: %w", n.Struct, err)
		}
		if s == nil || !slices.ContainsFunc(s.Members, func(m btf.Member) bool { return m.Name == n.Member }) {
			return NotBuiltIn{n.Option}
		}
	}
	return nil
}
