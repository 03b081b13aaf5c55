package traced

import (
	"reflect"
	"strings"
	"testing"

	"culprit/probes/snapshot"
)

// Every slice of events in a Trace is of one kind, and is the only one that its kind knows.
func TestKindsAreComplete(t *testing.T) {
	of := map[reflect.Type]string{}
	for _, k := range Kinds {
		if was, ok := of[k.Type]; ok {
			t.Errorf("%s and %s are of one type", was, k.Name)
		}
		of[k.Type] = k.Name
	}
	trace := reflect.TypeFor[snapshot.Trace]()
	for i := range trace.NumField() {
		f := trace.Field(i)
		if f.Type.Kind() != reflect.Slice || f.Type.Elem().Kind() != reflect.Struct {
			continue
		}
		if _, ok := f.Type.Elem().FieldByName("Moment"); !ok {
			continue
		}
		if of[f.Type.Elem()] == "" {
			t.Errorf("no kind is %s", f.Name)
		}
		delete(of, f.Type.Elem())
	}
	if len(of) > 0 {
		t.Errorf("of no slice are %v", of)
	}
}

// All fields are described, have one name in all forms, and a name one type in all kinds: SQL takes JSON lines for one table.
func TestFields(t *testing.T) {
	types := map[string]string{"event": "string"}
	for _, k := range Kinds {
		if k.Doc == "" {
			t.Errorf("%s is not described", k.Name)
		}
		seen := map[string]bool{}
		for _, f := range k.Fields() {
			if f.Name == "" || f.Doc == "" || f.Name == "event" || seen[f.Name] {
				t.Errorf("%s has a field %+v", k.Name, f)
			}
			seen[f.Name] = true
			if was, ok := types[f.Name]; ok && was != f.Type {
				t.Errorf("%s is %s in %s, and %s elsewhere", f.Name, f.Type, k.Name, was)
			}
			types[f.Name] = f.Type
		}
		for _, f := range reflect.VisibleFields(k.Type) {
			if name, _, _ := strings.Cut(f.Tag.Get("parquet"), ","); !f.Anonymous && name != f.Tag.Get("json") {
				t.Errorf("%s of %s is %s in Parquet and %s in JSON", f.Name, k.Name, name, f.Tag.Get("json"))
			}
		}
	}
}

func TestInOrder(t *testing.T) {
	at := func(at int64) snapshot.Moment { return snapshot.Moment{At: at} }
	trace := snapshot.Trace{
		IRQs:     []snapshot.IRQ{{Moment: at(2)}, {Moment: at(5)}},
		Switches: []snapshot.SchedSwitch{{Moment: at(1)}, {Moment: at(2)}, {Moment: at(3)}, {Moment: at(6)}},
		Syscalls: []snapshot.Syscall{{Moment: at(4)}},
	}
	type event struct {
		name string
		i    int
	}
	var got []event
	for kind, i := range InOrder(&trace) {
		got = append(got, event{kind.Name, i})
	}
	want := []event{{"sched.switch", 0}, {"sched.switch", 1}, {"irq", 0}, {"sched.switch", 2}, {"syscall", 0}, {"irq", 1}, {"sched.switch", 3}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for range InOrder(&trace) {
		break
	}
}
