package main

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestCleanText(t *testing.T) {
	for text, want := range map[string]string{
		"hello":                         "hello",
		"":                              "",
		" \t\r\n ":                      "",
		"  two  words  ":                "two  words",
		"one\ntwo\r\nthree":             "one two  three",
		"tab\tbell\x07del\x7fnel\u0085": "tab bell del nel",
		"line\u2028paragraph\u2029":     "line paragraph",
		"\u3000ideographic space\u3000": "ideographic space",
		"\x00\x01":                      "",
		"👩‍👩‍👧 café שלום":               "👩‍👩‍👧 café שלום", // joiners and marks are no controls
		"<b>&amp;\"'":                   "<b>&amp;\"'",
		"\ufffd":                        "\ufffd", // what somebody else has replaced
	} {
		if got := cleanText(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestCleanName(t *testing.T) {
	for name, want := range map[string]string{
		"Ada":                     "Ada",
		"":                        "",
		"  Ada   Lovelace ":       "Ada Lovelace",
		"A\u0000d\na":             "Ada",
		"\u202eadA\u2066":         "adA", // no turning the line around
		"A\u200bd\ufeffa":         "Ada", // nor hiding in it
		"Ada\ue000":               "Ada",
		"می\u200cخواهم":           "می\u200cخواهم",
		"\u200d \u200c":           "",
		"\xff\xfeAda":             "Ada",
		strings.Repeat("😀", 40):   strings.Repeat("😀", 32),
		strings.Repeat("ab ", 40): strings.TrimSpace(strings.Repeat("ab ", 11)[:32]),
	} {
		if got := cleanName(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestAppendClassic(t *testing.T) {
	for _, said := range []struct{ name, text, want string }{
		{"", "hello", "hello"},
		{"Ada", "hello", "Ada: hello"},
		{"", "Ada: hello", "Ada: hello"}, // names are labels, not identities
	} {
		m := message{sender: &Client{name: said.name}, text: said.text}
		if got := string(m.appendClassic([]byte("before "))); got != "before "+said.want {
			t.Errorf("%q", got)
		}
	}
}

// Whatever comes in, what goes out is one line of valid text that is clean already.
func FuzzCleanText(f *testing.F) {
	for _, seed := range []string{"hello", " \t", "a\u2028b", "\u0085", "\u00a0x\u00a0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			t.Skip()
		}
		clean := cleanText(text)
		if !utf8.ValidString(clean) || len(clean) > len(text) || cleanText(clean) != clean || strings.TrimSpace(clean) != clean {
			t.Errorf("%q becomes %q", text, clean)
		}
		if i := strings.IndexFunc(clean, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) }); i >= 0 {
			t.Errorf("%q has a control character at %d", clean, i)
		}
	})
}

func FuzzCleanName(f *testing.F) {
	for _, seed := range []string{"Ada", "\xff", "\u200d", "a b", "👩‍👩‍👧"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean := cleanName(name)
		if !utf8.ValidString(clean) || utf8.RuneCountInString(clean) > maxName || cleanName(clean) != clean {
			t.Errorf("%q becomes %q", name, clean)
		}
		if strings.Contains(clean, "  ") || strings.ContainsFunc(clean, unicode.IsControl) {
			t.Errorf("%q does not fit on a line", clean)
		}
	})
}

func BenchmarkSpell(b *testing.B) {
	m := message{sender: &Client{name: "Ada", userID: "0123456789abcdef"}, text: strings.Repeat("x", 64), clientMsgID: "0123456789abcdef"}
	b.Run("classic", func(b *testing.B) {
		b.ReportAllocs()
		var line []byte
		for b.Loop() {
			line = m.appendClassic(line[:0])
		}
	})
	b.Run("chat.v1", func(b *testing.B) {
		b.ReportAllocs()
		at := time.Now()
		for b.Loop() {
			m.newEntry(1, at)
		}
	})
}
