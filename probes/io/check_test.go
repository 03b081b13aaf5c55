package io

import "testing"

// What Load can do without, Check must explain, and nothing else.
func TestCheckExplainsWhatIsOptional(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, p := range spec.Programs {
		used[p.AttachTo] = true
	}
	for name, lost := range without {
		if !used[name] || lost == "" {
			t.Errorf("what is lost without %s is told as %q; used by a program: %v", name, lost, used[name])
		}
	}
}
