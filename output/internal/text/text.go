// Package text makes names that anybody may have chosen (a task's comm holds
// any bytes, so does a file's path) fit for a terminal and for a column.
package text

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape replaces what a terminal could obey or hide by Go's escapes: control
// characters, directional marks, spaces other than U+0020, bytes that are not
// UTF-8. Backslashes stay as they are: systemd's unit names are full of them,
// and doubling those would make names that nobody can search for.
func Escape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += n
	}
	return b.String()
}

// Width is the number of terminal columns that an escaped string takes. Where
// terminals disagree about a character it is the larger number, so that what
// is cut to a width never exceeds it.
func Width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// wide holds the blocks with characters of two columns: those that Unicode's
// EastAsianWidth.txt calls W or F, rounded up to whole blocks.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x1100, Hi: 0x11ff, Stride: 1}, // Hangul Jamo
		{Lo: 0x2300, Hi: 0x23ff, Stride: 1}, // Miscellaneous Technical
		{Lo: 0x25a0, Hi: 0x27bf, Stride: 1}, // Geometric Shapes to Dingbats
		{Lo: 0x2b00, Hi: 0x2bff, Stride: 1}, // Miscellaneous Symbols and Arrows
		{Lo: 0x2e80, Hi: 0xa4cf, Stride: 1}, // CJK, Kana, Yi
		{Lo: 0xa960, Hi: 0xa97f, Stride: 1}, // Hangul Jamo Extended-A
		{Lo: 0xac00, Hi: 0xd7ff, Stride: 1}, // Hangul Syllables
		{Lo: 0xf900, Hi: 0xfaff, Stride: 1}, // CJK Compatibility Ideographs
		{Lo: 0xfe10, Hi: 0xfe6f, Stride: 1}, // vertical and small forms
		{Lo: 0xff00, Hi: 0xffef, Stride: 1}, // full-width forms
	},
	R32: []unicode.Range32{
		{Lo: 0x16fe0, Hi: 0x18dff, Stride: 1}, // Tangut, Khitan
		{Lo: 0x1aff0, Hi: 0x1b2ff, Stride: 1}, // Kana supplements, Nushu
		{Lo: 0x1d300, Hi: 0x1d37f, Stride: 1}, // Tai Xuan Jing, counting rods
		{Lo: 0x1f000, Hi: 0x1faff, Stride: 1}, // tiles, cards, emoji
		{Lo: 0x20000, Hi: 0x3ffff, Stride: 1}, // the ideographic planes
	},
}

func runeWidth(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// CutRight is s in at most width columns: its beginning and an ellipsis where
// it is longer.
func CutRight(s string, width int) string {
	if Width(s) <= width {
		return s
	}
	left := width - 1 // for the ellipsis
	for i, r := range s {
		if left -= runeWidth(r); left < 0 {
			return s[:i] + "…"
		}
	}
	return s
}

// CutLeft is s in at most width columns: an ellipsis and its end where it is
// longer. It is for paths, which differ at their end.
func CutLeft(s string, width int) string {
	excess := Width(s) - width
	if excess <= 0 {
		return s
	}
	excess++ // for the ellipsis
	for i, r := range s {
		if excess <= 0 && runeWidth(r) > 0 {
			return "…" + s[i:]
		}
		excess -= runeWidth(r)
	}
	return "…"
}

// Cut cuts a name where it says least: a path at its beginning, everything
// else at its end.
func Cut(s string, width int) string {
	if strings.HasPrefix(s, "/") {
		return CutLeft(s, width)
	}
	return CutRight(s, width)
}
