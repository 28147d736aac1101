package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

const subprotocol = "chat.v1" // who asks for it (RFC 6455, section 1.9) is spoken to in JSON

const (
	maxText        = 4096      // bytes of one message as received
	maxClientFrame = 32 * 1024 // bytes of the JSON around it, where an escape takes up to six for one
	maxClientMsgID = 64        // bytes of a sender's own mark
	maxName        = 32        // code points of a name
	maxFrame       = 16 * 1024 // bytes of payload in one frame to a client; some refuse more than twice that
)

// A protocol is one of the two ways in which clients are spoken to.
type protocol int

const (
	classic      protocol = iota // a text frame holds bare lines, as in the gorilla example
	chatV1                       // the subprotocol chat.v1: a text frame holds JSON objects, one a line
	numProtocols                 // how many there are
)

var protocolNames = [numProtocols]string{"classic", subprotocol}

// A message is one line of chat on its way to the hub.
type message struct {
	sender      *Client
	text        string // clean, not empty
	clientMsgID string // the sender's own mark; "" for none
}

// appendClassic appends the message as the classic wire spells it: the bare
// text, behind the name of one who gave a name. It is at most a name longer than
// maxText, and so shorter than maxFrame.
func (m message) appendClassic(b []byte) []byte {
	if m.sender.name != "" {
		b = append(b, m.sender.name...)
		b = append(b, ": "...)
	}
	return append(b, m.text...)
}

// A kept message is one that was said, as chat.v1 spells it for those who hear it
// now and those who come later. Nobody changes it.
type entry struct {
	id                  int64
	userID, clientMsgID string
	payload             []byte
}

// newEntry spells the message. The line is shorter than maxFrame, since of a clean text
// JSON escapes only quotation marks and backslashes.
func (m message) newEntry(id int64, at time.Time) *entry {
	return &entry{id, m.sender.userID, m.clientMsgID, encode(struct {
		Type string `json:"type"`
		ID   int64  `json:"id"`
		Time string `json:"time"`
		From string `json:"from"`
		Name string `json:"name"`
		Text string `json:"text"`
		Ref  string `json:"ref,omitempty"`
	}{"message", id, at.UTC().Format("2006-01-02T15:04:05.000Z"), m.sender.userID, m.sender.shownName(), m.text, m.clientMsgID})}
}

// hello is what a chat.v1 client is told first, once.
type hello struct {
	Type   string `json:"type"`
	Room   string `json:"room"`
	Name   string `json:"name"`
	From   string `json:"from"`
	Max    int    `json:"max"`    // bytes of text in one message
	ID     int64  `json:"id"`     // the room's last
	Missed bool   `json:"missed"` // more was said since then than is kept
}

// online is who is here.
type online struct {
	Type  string   `json:"type"`
	Count int      `json:"count"`
	Names []string `json:"names,omitempty"` // while they are few
}

// encode returns v as one line of JSON, without escapes for HTML: what is shown is
// only ever set as text. It cannot fail for the types above.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// clientMessage is what a chat.v1 client sends.
type clientMessage struct {
	Text string `json:"text"`
	Ref  string `json:"ref"`
}

// decodeClientMessage reads a chat.v1 client's frame, which must be valid UTF-8. When it is not
// what it should be, the ending says how.
func decodeClientMessage(frame []byte) (s clientMessage, e *disconnect) {
	if !bytes.HasPrefix(bytes.TrimLeft(frame, " \t\r\n"), []byte("{")) || json.Unmarshal(frame, &s) != nil {
		return s, &disconnect{websocket.ClosePolicyViolation, `a frame must be a JSON object {"text":"…","ref":"…"}`, "not JSON"}
	}
	if len(s.Ref) > maxClientMsgID {
		return s, &disconnect{websocket.ClosePolicyViolation, "a ref may have 64 bytes", "too long"}
	}
	if len(s.Text) > maxText {
		return s, &tooLong
	}
	return s, nil
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
