package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/hook"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/tcp"
	"culprit/probes/trace"
)

// object is what a probe loads into the kernel.
type object struct {
	name  string
	spec  func(kernel *btf.Spec) (*ebpf.CollectionSpec, error)
	check func(kernel *btf.Spec) ([]hook.Tracepoint, error)
}

var objects = []object{
	{"owner", func(*btf.Spec) (*ebpf.CollectionSpec, error) { return owner.Spec() }, owner.Check},
	{"io", ioprobe.Spec, ioprobe.Check},
	{"sched", sched.Spec, sched.Check},
	{"tcp", tcp.Spec, tcp.Check},
	{"trace", trace.Spec, trace.Check},
}

// finding is something that an object asks of a kernel and does not get.
type finding struct {
	object  string
	what    string   // "tracepoint jbd2_run_stats", "field request.tag", "helper Loop", …
	of      []string // the programs or maps that ask
	without string   // what is lost; "" if the object cannot work then
}

func (f finding) String() string {
	lost := f.without
	if lost == "" {
		lost = "this kernel does not have it"
	}
	return fmt.Sprintf("%s: %s: %s (%s)", f.object, f.what, lost, strings.Join(f.of, ", "))
}

// relocate finds what a kernel lacks of what the objects ask for, without loading anything into it.
func relocate(k installed) ([]finding, error) {
	kernel, err := readTypes(k)
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, o := range objects {
		found, err := lacking(o, kernel)
		if err != nil {
			return nil, fmt.Errorf("relocating %s for kernel %s: %w", o.name, k.release, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func lacking(o object, kernel *types) ([]finding, error) {
	spec, err := o.spec(kernel.kernel)
	if err != nil {
		return nil, err
	}
	points, err := o.check(kernel.kernel)
	if err != nil {
		return nil, err
	}
	found := map[string]*finding{}
	note := func(what, by, without string) {
		if found[what] == nil {
			found[what] = &finding{object: o.name, what: what, without: without}
		}
		if f := found[what]; !slices.Contains(f.of, by) {
			f.of = append(f.of, by)
		}
	}
	absent := map[string]hook.Tracepoint{}
	for _, p := range points {
		if !p.Present {
			absent[p.Name] = p
		}
	}
	can, err := readAbilities(kernel.kernel)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if m := spec.Maps[name]; !can.maps[uint64(m.Type)] {
			note("map type "+m.Type.String(), name, "")
		}
	}
	// A module's types are there only while it is loaded.
	builtIn := []*btf.Spec{kernel.kernel}
	withModules := slices.AppendSeq(builtIn, maps.Values(kernel.modules))
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		p := spec.Programs[name]
		if point, ok := absent[p.AttachTo]; ok {
			note("tracepoint "+p.AttachTo+kernel.home("btf_trace_"+p.AttachTo), name, point.Without)
			if point.Without != "" {
				continue // it is not loaded
			}
		}
		for _, targets := range [][]*btf.Spec{builtIn, withModules} {
			asked, err := unmet(p, spec.Types, targets, can)
			if err != nil {
				return nil, fmt.Errorf("program %s: %w", name, err)
			}
			for _, what := range asked {
				note(what, name, "")
			}
		}
	}
	var out []finding
	for _, what := range slices.Sorted(maps.Keys(found)) {
		out = append(out, *found[what])
	}
	return out, nil
}

// home says which modules have a type that the kernel itself has not.
func (t *types) home(name string) string {
	var in []string
	for _, module := range slices.Sorted(maps.Keys(t.modules)) {
		if _, err := t.modules[module].AnyTypeByName(name); err == nil {
			in = append(in, module)
		}
	}
	if in == nil {
		return ""
	}
	return ", except in module " + strings.Join(in, ", ")
}

// abilities are what a kernel has beside the types that relocations ask for.
type abilities struct {
	maps, helpers map[uint64]bool // by their numbers
	nameless      map[string]bool // enumerators of enums without a name, which relocations do not find
}

func readAbilities(kernel *btf.Spec) (abilities, error) {
	can := abilities{maps: map[uint64]bool{}, helpers: map[uint64]bool{}, nameless: map[string]bool{}}
	for t, err := range kernel.All() {
		if err != nil {
			return abilities{}, err
		}
		enum, ok := t.(*btf.Enum)
		if !ok {
			continue
		}
		for _, v := range enum.Values {
			switch {
			case enum.Name == "":
				can.nameless[v.Name] = true
			case strings.HasPrefix(v.Name, "__"): // it marks the end
			case enum.Name == "bpf_map_type":
				can.maps[v.Value] = true
			case enum.Name == "bpf_func_id":
				can.helpers[v.Value] = true
			}
		}
	}
	return can, nil
}

// unmet lists what a program asks for in vain in instructions that it can get to: "field …", "helper …".
func unmet(p *ebpf.ProgramSpec, local *btf.Spec, targets []*btf.Spec, can abilities) ([]string, error) {
	instructions := slices.Clone(p.Instructions)
	var relocations []*btf.CORERelocation
	var relocated []*asm.Instruction
	for i := range instructions {
		if r := btf.CORERelocationMetadata(&instructions[i]); r != nil {
			relocations, relocated = append(relocations, r), append(relocated, &instructions[i])
		}
	}
	var b btf.Builder
	fixups, err := btf.CORERelocate(relocations, targets, p.ByteOrder, b.Add)
	if err != nil {
		return nil, err
	}
	for i := range fixups {
		if err := fixups[i].Apply(relocated[i]); err != nil {
			return nil, fmt.Errorf("%v: %w", relocations[i], err)
		}
	}
	reached, err := reachable(instructions)
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range instructions {
		ins := &instructions[i]
		if !reached[i] {
			continue
		}
		if ins.IsBuiltinCall() && ins.Constant != btf.COREBadRelocationSentinel && !can.helpers[uint64(ins.Constant)] {
			out = append(out, "helper "+strings.TrimPrefix(asm.BuiltinFunc(ins.Constant).String(), "Fn"))
		}
		if r := btf.CORERelocationMetadata(&p.Instructions[i]); r != nil {
			question, what, err := wanted(r, local)
			if err != nil {
				return nil, err
			}
			name := what[strings.LastIndex(what, ".")+1:]
			switch {
			case ins.Constant == btf.COREBadRelocationSentinel:
				out = append(out, what)
			case question == "enumval_exists" && ins.Constant == 0 && can.nameless[name]:
				out = append(out, what+", except in an enum without a name")
			}
		}
	}
	return out, nil
}

// The library tells what a relocation is of in no other way.
var relocationText = regexp.MustCompile(`^CORERelocation\((\w+), .*\[([\d:]+)\], local_id=(\d+)\)$`)

// wanted is a relocation's question, and the thing that it is about.
func wanted(r *btf.CORERelocation, local *btf.Spec) (question, what string, err error) {
	parts := relocationText.FindStringSubmatch(r.String())
	if parts == nil {
		return "", "", fmt.Errorf("a relocation that is not understood: %v", r)
	}
	id, err := strconv.ParseUint(parts[3], 10, 32)
	if err != nil {
		return "", "", err
	}
	t, err := local.TypeByID(btf.TypeID(id))
	if err != nil {
		return "", "", err
	}
	path := t.TypeName()
	for n, step := range strings.Split(parts[2], ":") {
		i, err := strconv.Atoi(step)
		if err != nil {
			return "", "", err
		}
		switch u := btf.UnderlyingType(t).(type) {
		case *btf.Enum:
			path += "." + u.Values[i].Name
		case *btf.Array:
			t = u.Type
		default:
			if n == 0 {
				continue // the element of an array of the whole type
			}
			var members []btf.Member
			switch u := u.(type) {
			case *btf.Struct:
				members = u.Members
			case *btf.Union:
				members = u.Members
			}
			if i >= len(members) {
				return "", "", fmt.Errorf("a relocation that is not understood: %v", r)
			}
			t = members[i].Type
			if members[i].Name != "" {
				path += "." + members[i].Name
			}
		}
	}
	kind := "field "
	switch {
	case strings.HasPrefix(parts[1], "enumval"):
		kind = "enumerator "
	case strings.Contains(parts[1], "type"):
		kind = "type "
	}
	return parts[1], kind + path, nil
}
