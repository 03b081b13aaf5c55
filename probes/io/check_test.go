package io

import "testing"

// What Load can do without, Check must explain, and nothing else.
func TestCheckExplainsWhatIsOptional(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for name := range optional {
		attach := spec.Programs[name].AttachTo
		explained[attach] = true
		if without[attach] == "" {
			t.Errorf("nothing says what is lost without the optional tracepoint %s", attach)
		}
	}
	for name := range without {
		if !explained[name] {
			t.Errorf("the probe cannot work without %s, but what is lost without it is told", name)
		}
	}
}
