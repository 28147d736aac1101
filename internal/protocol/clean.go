package protocol

import (
	"encoding/base32"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CleanText returns what is left to show of a text of several lines, which it keeps, with
// their tabs and indentation. Line breaks of any kind become LF, other control characters
// spaces. Blank lines at the start and white space at the end go. It returns "" for a
// blank text. The text must be valid UTF-8.
func CleanText(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == '\r' || unicode.In(r, unicode.Zl, unicode.Zp):
			return '\n'
		case unicode.Is(unicode.Cc, r):
			return ' '
		}
		return r
	}, strings.ReplaceAll(text, "\r\n", "\n"))
	if isBlank(text) {
		return ""
	}
	text = strings.TrimRightFunc(text, unicode.IsSpace)
	indented := len(text) - len(strings.TrimLeftFunc(text, unicode.IsSpace))
	return text[strings.LastIndexByte(text[:indented], '\n')+1:]
}

// CleanLine returns what is left to show of a text on one line: control characters and
// line breaks become spaces, and the ends are trimmed. It returns "" for a blank text. The
// text must be valid UTF-8.
func CleanLine(text string) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, text))
	if isBlank(text) {
		return ""
	}
	return text
}

// isBlank reports whether a text shows nothing: it has only spaces, default-ignorable
// code points (Unicode, section 5.21) and the pattern of Braille without a dot.
func isBlank(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r != '\u2800' && !unicode.In(r, unicode.Z, unicode.Cc, unicode.Cf,
			unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
	})
}

// CleanName returns a name that fits on a line and cannot rearrange it: without
// controls, line breaks, private-use and invisible format characters (except for the
// two joiners that scripts and emoji need), its runs of spaces made one, cut to MaxName
// code points. It returns "" when nothing is left.
func CleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r == '\u200c' || r == '\u200d':
			return r
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co):
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	name = strings.Join(strings.Fields(name), " ")
	if utf8.RuneCountInString(name) > MaxName {
		name = string([]rune(name)[:MaxName])
	}
	name = strings.Trim(name, " \u200c\u200d") // a joiner at an end joins nothing
	if isBlank(name) {
		return ""
	}
	return name
}

// RoomName returns the name of the room that a client asks for, in lower case, and
// whether a room may have that name: up to MaxRoomName letters (with marks, which some
// scripts write their vowels with), digits, "-" and "_". The name "" is the lobby's.
func RoomName(asked string) (name string, ok bool) {
	name = strings.Clone(strings.ToLower(asked)) // not a piece of the request, which it outlives
	forbidden := func(r rune) bool {
		return !unicode.In(r, unicode.L, unicode.M, unicode.Nd) && r != '-' && r != '_'
	}
	return name, utf8.ValidString(name) && utf8.RuneCountInString(name) <= MaxRoomName && !strings.ContainsFunc(name, forbidden)
}

// plainEncoding is made of characters that every file system tells apart, and that no file
// system changes.
var plainEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// PlainRoom returns a room's name in lower-case letters of ASCII, digits, - and _: as it is,
// if it has nothing else, or encoded, with a + in front. So no two rooms share one, whatever
// takes it for the same. It has at most 210 bytes.
func PlainRoom(name string) string {
	plain := func(r rune) bool { return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' }
	if strings.TrimFunc(name, plain) == "" {
		return name
	}
	return "+" + plainEncoding.EncodeToString([]byte(name))
}
