package protocol

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestCleanText(t *testing.T) {
	for text, want := range map[string]string{
		"hello":                               "hello",
		"":                                    "",
		" \t\r\n ":                            "",
		"one\ntwo\r\nthree\rfour":             "one\ntwo\nthree\nfour",
		"one\r\n\r\ntwo\n\r":                  "one\n\ntwo",
		"line\u2028paragraph\u2029end\u2029":  "line\nparagraph\nend",
		"if x {\n\treturn\n}\n":               "if x {\n\treturn\n}",
		"    indented\n\t\tmore":              "    indented\n\t\tmore",
		"\n \t\n\u3000\n  after blank lines":  "  after blank lines",
		"after it \n\t \u00a0\n":              "after it",
		"ends \n of  \n\nlines":               "ends \n of  \n\nlines",
		"bell\x07del\x7fnel\u0085vt\vff\fend": "bell del nel vt ff end",
		"\x00\n\x01":                          "",
		"\x00x":                               " x",
		"\u3164\n\u2800\ufe0f\u00ad":          "",
		"\u2800\nx":                           "\u2800\nx",
		"👩‍👩‍👧\ncafé\nשלום":                   "👩‍👩‍👧\ncafé\nשלום",
	} {
		if got := CleanText(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestCleanLine(t *testing.T) {
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
		"\u200b":                        "",
		"\u3164 \u2800\ufe0f\u00ad":     "",
		"\u2800x":                       "\u2800x",
		"\u200d👍\ufe0f":                 "\u200d👍\ufe0f",
		"👩‍👩‍👧 café שלום":               "👩‍👩‍👧 café שלום", // joiners and marks are no controls
		"<b>&amp;\"'":                   "<b>&amp;\"'",
		"\ufffd":                        "\ufffd", // which a client has put in for invalid bytes
	} {
		if got := CleanLine(text); got != want {
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
		"क्\u200dष":               "क्\u200dष",
		"A\u200ed\u200ba":         "Ada", // the neighbours of the joiners
		"\u200d \u200c":           "",
		"\u3164":                  "",
		"\xff\xfeAda":             "Ada",
		strings.Repeat("😀", 40):   strings.Repeat("😀", 32),
		strings.Repeat("😀", 32):   strings.Repeat("😀", 32),
		strings.Repeat("😀", 33):   strings.Repeat("😀", 32),
		strings.Repeat("ab ", 40): strings.TrimSpace(strings.Repeat("ab ", 11)[:32]),
	} {
		if got := CleanName(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestAppendClassic(t *testing.T) {
	for _, said := range []struct{ name, text, want string }{
		{"", "hello", "hello"},
		{"Ada", "hello", "Ada: hello"},
		{"", "Ada: hello", "Ada: hello"}, // names are labels, not identities
		{"Ada", "\tif x {\n\t\treturn\n\t}", "Ada: if x {   return  }"},
		{"", "  one\n\ntwo", "one  two"},
	} {
		m := Message{Name: said.name, Text: said.text}
		if got := string(m.AppendClassic([]byte("before "))); got != "before "+said.want {
			t.Errorf("%q", got)
		}
	}
}

// The objects of chat.v1 that are no messages.
func TestEncode(t *testing.T) {
	for want, object := range map[string]interface{ Encode() []byte }{
		`{"type":"online","count":2,"names":["<Ada>","guest"],"froms":["0a","07"]}`:                                          Online{2, []string{"<Ada>", "guest"}, []string{"0a", "07"}},
		`{"type":"online","count":51}`:                                                                                       Online{51, nil, nil},
		`{"type":"hello","room":"team","name":"guest","from":"0a","max":4096,"id":7,"missed":true}`:                          Hello{"team", "", "0a", 7, true, ""},
		`{"type":"hello","room":"","name":"Ada","from":"0a","max":4096,"id":7,"missed":false,"url":"http://10.0.0.7:8080/"}`: Hello{"", "Ada", "0a", 7, false, "http://10.0.0.7:8080/"},
	} {
		if got := string(object.Encode()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// The longest message fits into a frame in both protocols.
func TestLongestMessageFits(t *testing.T) {
	for _, letter := range []string{`"`, `\\`, "<", "é", "\u2027", "\t", "x\n"} {
		text := strings.Repeat(letter, MaxText/len(letter))
		m := Message{1<<53 - 1, time.Now(), "0123456789abcdef", strings.Repeat("😀", MaxName), text, strings.Repeat("\x01", MaxClientMsgID)}
		if n := len(m.Encode()); n >= MaxFrame {
			t.Errorf("%d bytes of %q are %d on chat.v1", len(text), letter, n)
		}
		if n := len(m.AppendClassic(nil)); n >= MaxFrame {
			t.Errorf("%d bytes of %q are %d on the classic protocol", len(text), letter, n)
		}
	}
}

// What is exactly as long as it may be is accepted, and one byte more is not.
func TestDecodeLimits(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, frame := range []struct {
		what     string
		protocol Protocol
		frame    string
		want     error
	}{
		{"text", Classic, x(MaxText), nil},
		{"text", Classic, x(MaxText + 1), MessageTooBig},
		{"text", ChatV1, `{"text":"` + x(MaxText) + `"}`, nil},
		{"text", ChatV1, `{"text":"` + x(MaxText+1) + `"}`, MessageTooBig},
		{"text of escapes", ChatV1, `{"text":"` + strings.Repeat(`\u0000`, MaxText) + `"}`, nil},
		{"text of escapes", ChatV1, `{"text":"` + strings.Repeat(`\u0000`, MaxText+1) + `"}`, MessageTooBig},
		{"ref", ChatV1, `{"text":"x","ref":"` + x(MaxClientMsgID) + `"}`, nil},
		{"ref", ChatV1, `{"text":"x","ref":"` + x(MaxClientMsgID+1) + `"}`, ClientMsgIDTooLong},
		{"frame", ChatV1, `{"text":"x"}` + strings.Repeat(" ", MaxClientFrame-12), nil},
		{"frame", ChatV1, `{"text":"x"}` + strings.Repeat(" ", MaxClientFrame-11), MessageTooBig},
		{"invalid UTF-8, too long", Classic, strings.Repeat("\xff", MaxText+1), MessageTooBig},
		{"invalid UTF-8", ChatV1, "\xff", InvalidUTF8},
	} {
		if _, err := frame.protocol.Decode([]byte(frame.frame)); err != frame.want {
			t.Errorf("%v, %s of %d bytes in all: %v, want %v", frame.protocol, frame.what, len(frame.frame), err, frame.want)
		}
	}
}

// Every cause and refusal has a label of its own.
func TestLabels(t *testing.T) {
	seen := map[string]bool{"": true}
	for c := NotDropped + 1; c < NumCauses; c++ {
		if seen[c.String()] {
			t.Errorf("cause %d has the label %q", c, c)
		}
		seen[c.String()] = true
	}
	for r := range NumRefusals {
		if seen[r.String()] {
			t.Errorf("refusal %d has the label %q", r, r)
		}
		seen[r.String()] = true
	}
}

func TestRoomNames(t *testing.T) {
	for asked, want := range map[string]string{
		"":                       "",
		"team":                   "team",
		"Team-2_b":               "team-2_b",
		"Übung":                  "übung",
		"教室":                     "教室",
		"हिन्दी":                 "हिन्दी",
		strings.Repeat("é", 32):  strings.Repeat("é", 32),
		strings.Repeat("é", 33):  "error",
		"two words":              "error",
		"a/b":                    "error",
		"<b>":                    "error",
		"a\n":                    "error",
		"a\u202eb":               "error",
		"\xff":                   "error",
		"😀":                      "error",
		"..":                     "error",
		strings.Repeat("a", 1e4): "error",
	} {
		name, ok := RoomName(asked)
		if !ok {
			name = "error"
		}
		if name != want {
			t.Errorf("%.40q: %q, want %q", asked, name, want)
		}
	}
}

// Whatever comes in, what goes out is valid text that is clean already: lines of ChatV1,
// and one line of Classic.
func FuzzCleanText(f *testing.F) {
	for _, seed := range []string{"hello", " \t", "a\u2028b", "\u0085", "\u00a0x\u00a0", "\n\n  a\r\n\tb\r", "\u2028\u200b\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			t.Skip()
		}
		line, lines := CleanLine(text), CleanText(text)
		if !utf8.ValidString(line) || len(line) > len(text) || CleanLine(line) != line || strings.TrimSpace(line) != line {
			t.Errorf("%q becomes the line %q", text, line)
		}
		if !utf8.ValidString(lines) || len(lines) > len(text) || CleanText(lines) != lines || strings.TrimRightFunc(lines, unicode.IsSpace) != lines {
			t.Errorf("%q becomes the lines %q", text, lines)
		}
		if first, _, _ := strings.Cut(lines, "\n"); lines != "" && strings.TrimSpace(first) == "" {
			t.Errorf("%q begins with a blank line", lines)
		}
		if (line == "") != (lines == "") || CleanText(line) != line {
			t.Errorf("%q is %q as a line and %q as lines", text, line, lines)
		}
		m := Message{Text: lines}
		if classic := string(m.AppendClassic(nil)); classic != CleanLine(lines) {
			t.Errorf("%q is said as %q on the classic protocol, want %q", lines, classic, CleanLine(lines))
		}
		for _, clean := range []string{line, strings.NewReplacer("\n", "", "\t", "").Replace(lines)} {
			if i := strings.IndexFunc(clean, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) }); i >= 0 {
				t.Errorf("%q has a control character at %d", clean, i)
			}
		}
		encoded := m.Encode()
		if bytes.ContainsRune(encoded, '\n') {
			t.Errorf("%q is encoded on several lines: %s", lines, encoded)
		}
	})
}

func FuzzCleanName(f *testing.F) {
	for _, seed := range []string{"Ada", "\xff", "\u200d", "a b", "👩‍👩‍👧"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean := CleanName(name)
		if !utf8.ValidString(clean) || utf8.RuneCountInString(clean) > MaxName || CleanName(clean) != clean {
			t.Errorf("%q becomes %q", name, clean)
		}
		if strings.Contains(clean, "  ") || strings.ContainsFunc(clean, unicode.IsControl) {
			t.Errorf("%q does not fit on a line", clean)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	m := Message{1, time.Now(), "0123456789abcdef", "Ada", strings.Repeat("x", 64), "0123456789abcdef"}
	b.Run("classic", func(b *testing.B) {
		b.ReportAllocs()
		var line []byte
		for b.Loop() {
			line = m.AppendClassic(line[:0])
		}
	})
	b.Run("chat.v1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Encode()
		}
	})
}

// A message that was encoded is decoded to what it was, and encoded to the same bytes again.
func TestDecodeMessage(t *testing.T) {
	for _, m := range []Message{
		{ID: 1, UserID: "0123456789abcdef", Name: "Ada", Text: "hello", ClientMsgID: "r1"},
		{ID: MaxID, UserID: "0123456789abcdef", Name: "日本", Text: `<b>"so"</b> back\slash & 😀`},
		{ID: 2, UserID: "0123456789abcdef", Name: "Ada", Text: "\tif x {\n\t\treturn\n\n\t}"},
	} {
		m.Time = time.Date(2026, 11, 25, 1, 2, 3, 456_000_000, time.UTC)
		got, err := DecodeMessage(m.Encode())
		if err != nil || got != m || string(got.Encode()) != string(m.Encode()) {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
	}
	for _, line := range []string{
		``, `null`, `[]`, `{}`, `hello`, `{"type":"message"`,
		`{"type":"online","id":1,"time":"2026-11-25T01:02:03.456Z","from":"a","text":"x"}`,
		`{"type":"message","id":0,"time":"2026-11-25T01:02:03.456Z","from":"a","text":"x"}`,
		`{"type":"message","id":9007199254740992,"time":"2026-11-25T01:02:03.456Z","from":"a","text":"x"}`,
		`{"type":"message","id":1.5,"time":"2026-11-25T01:02:03.456Z","from":"a","text":"x"}`,
		`{"type":"message","id":1,"time":"yesterday","from":"a","text":"x"}`,
		`{"type":"message","id":1,"time":"2026-11-25T01:02:03.456Z","from":"","text":"x"}`,
		`{"type":"message","id":1,"time":"2026-11-25T01:02:03.456Z","from":"a","text":" "}`,
		`{"type":"message","id":1,"time":"2026-11-25T01:02:03.456Z","from":"a","text":"` + "\xff" + `"}`,
		`{"type":"message","id":1,"time":"2026-11-25T01:02:03.456Z","from":"a","text":"` + strings.Repeat("x", MaxText+1) + `"}`,
		`{"type":"message","id":1,"time":"2026-11-25T01:02:03.456Z","from":"a","text":"x","ref":"` + strings.Repeat("x", MaxClientMsgID+1) + `"}`,
	} {
		if m, err := DecodeMessage([]byte(line)); err == nil {
			t.Errorf("%.80s became %+v", line, m)
		}
	}
	edited := `{"text":"\n two\r\nlines ","name":"A\u0000da","from":"a","time":"2026-11-25T01:02:03.456Z","id":7,"type":"message","more":1}`
	if m, err := DecodeMessage([]byte(edited)); err != nil || m.Text != " two\nlines" || m.Name != "Ada" {
		t.Errorf("%+v, %v", m, err)
	}
}
