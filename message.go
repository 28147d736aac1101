package main

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

const (
	maxText  = 4096      // bytes of one message as received
	maxName  = 32        // code points of a name
	maxFrame = 16 * 1024 // bytes of payload in one frame; some clients refuse more than twice that
)

// A message is one line of chat on its way to the hub.
type message struct {
	from *Client
	text string // clean, not empty
}

// appendClassic appends the message as the classic wire spells it: the bare
// text, behind the name of one who gave a name. It is at most maxText bytes
// longer than a name, and so shorter than maxFrame.
func (m message) appendClassic(b []byte) []byte {
	if m.from.name != "" {
		b = append(b, m.from.name...)
		b = append(b, ": "...)
	}
	return append(b, m.text...)
}

// A batch is what the hub hands to every client at once: one pointer for all,
// spelled and framed once. Nobody changes it after that.
type batch struct {
	text  []byte // lines joined by newlines, at most maxFrame bytes; nil in a ping, which stands alone
	frame *websocket.PreparedMessage
}

// ping is what the hub hands out when nobody may have spoken for a while.
var ping = &batch{frame: prepare(websocket.PingMessage, nil)}

// newBatch frames a copy of the text.
func newBatch(text []byte) *batch {
	frame := prepare(websocket.TextMessage, text)
	return &batch{text: append([]byte(nil), text...), frame: frame}
}

// prepare frames a payload once for all connections. It cannot fail: it writes
// to memory, a message type that exists.
func prepare(messageType int, payload []byte) *websocket.PreparedMessage {
	frame, err := websocket.NewPreparedMessage(messageType, payload)
	if err != nil {
		panic(err)
	}
	return frame
}

// cleanText returns what is left to show of a text: control characters and line
// breaks become spaces, so that one message is one line, and the ends are
// trimmed. It returns "" for a blank text. The text must be valid UTF-8.
func cleanText(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, text))
}

// cleanName returns a name that fits on a line and cannot rearrange it: without
// controls, line breaks, private-use and invisible format characters (but with
// the two joiners that scripts and emoji need), its runs of spaces made one,
// cut to maxName code points. It returns "" when nothing is left.
func cleanName(name string) string {
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
	if utf8.RuneCountInString(name) > maxName {
		name = string([]rune(name)[:maxName])
	}
	return strings.Trim(name, " \u200c\u200d") // a joiner at an end joins nothing, and alone is no name
}
