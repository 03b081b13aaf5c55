package text

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"postgres: writer":          "postgres: writer",
		"Füße 界":                    "Füße 界",
		`dev-disk\x2dby.device`:     `dev-disk\x2dby.device`,
		`"'`:                        `"'`,
		"\x1b[2J":                   `\x1b[2J`,
		"a\nb\tc\x7f\x00":           `a\nb\tc\x7f\x00`,
		"\xff\x9b":                  `\xff\x9b`,
		"\u009b\u202e\u2028\u00a0x": `\u009b\u202e\u2028\u00a0x`,
		"\U000e0001":                `\U000e0001`,
		"\ufffd":                    "\ufffd",
	} {
		if got := Escape(in); got != want {
			t.Errorf("Escape(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"postgres", 8, "postgres"},
		{"postgresql", 8, "postgre…"},
		{"/usr/bin/postgres", 10, "…/postgres"},
		{"界界界", 6, "界界界"},
		{"界界界", 5, "界界…"},
		{"界界界", 4, "界…"},
		{"/界界界", 4, "…界"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
		{"/e\u0301e\u0301", 2, "…e\u0301"},
		{"ab", 1, "…"},
		{"/b", 1, "…"},
	} {
		if got := Cut(tt.in, tt.width); got != tt.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"dd", "\x1b]0;title\a", "\xe7\x95", "/界/\u0301", "\u009b31m"} {
		f.Add(s, 8)
	}
	f.Fuzz(func(t *testing.T, s string, width int) {
		e := Escape(s)
		if !utf8.ValidString(e) {
			t.Errorf("Escape(%q) = %q is not UTF-8", s, e)
		}
		for _, r := range e {
			if !strconv.IsPrint(r) {
				t.Errorf("Escape(%q) = %q holds %q", s, e, r)
			}
		}
		if again := Escape(e); again != e {
			t.Errorf("Escape(%q) = %q, and again %q", s, e, again)
		}
		width = 1 + width&0x3f
		for _, cut := range []string{CutRight(e, width), CutLeft(e, width)} {
			if Width(cut) > width {
				t.Errorf("%q cut to %d is %q, %d wide", e, width, cut, Width(cut))
			}
			if part := strings.Trim(cut, "…"); !strings.Contains(e, part) {
				t.Errorf("%q cut to %d is %q", e, width, cut)
			}
		}
		if Width(e) <= width && (CutRight(e, width) != e || CutLeft(e, width) != e) {
			t.Errorf("%q fits %d and is cut", e, width)
		}
	})
}
