package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// A Message is what was said, as a room orders and keeps it. Text is what CleanText
// returns, and not empty.
type Message struct {
	ID          int64     // increases with each message of a room
	Time        time.Time // when the room took it
	UserID      string    // tells apart people of one name
	Name        string    // the sender's; "" for none
	Text        string
	ClientMsgID string // the sender's own id for it, an idempotency key; "" for none
}

// AppendClassic appends the message as Classic spells it: the text on one line, after the
// name of a sender that gave one. The result is at most a name longer than MaxText, and so
// shorter than MaxFrame.
func (m *Message) AppendClassic(b []byte) []byte {
	if m.Name != "" {
		b = append(b, m.Name...)
		b = append(b, ": "...)
	}
	begin := len(b)
	b = append(b, strings.TrimSpace(m.Text)...)
	for i, c := range b[begin:] {
		if c == '\n' || c == '\t' {
			b[begin+i] = ' '
		}
	}
	return b
}

// Encode returns the message as ChatV1 spells it, on one line. The result is shorter than
// MaxFrame: of a clean text JSON escapes only quotation marks, backslashes, line breaks and
// tabs, each with one byte more.
func (m *Message) Encode() []byte {
	return encode(messageObject{"message", m.ID, m.Time.UTC().Format(timeFormat), m.UserID, ShownName(m.Name), m.Text, m.ClientMsgID})
}

// timeFormat is how ChatV1 spells a time, which is in UTC.
const timeFormat = "2006-01-02T15:04:05.000Z"

// A messageObject is a message as ChatV1 spells it.
type messageObject struct {
	Type        string `json:"type"`
	ID          int64  `json:"id"`
	Time        string `json:"time"`
	UserID      string `json:"from"`
	Name        string `json:"name"`
	Text        string `json:"text"`
	ClientMsgID string `json:"ref,omitempty"`
}

// MaxID is the largest id of a message: a page counts in float64.
const MaxID = 1<<53 - 1

// maxUserID is the length in bytes of a user id that DecodeMessage accepts, at most.
const maxUserID = 64

// errNotMessage is what DecodeMessage returns.
var errNotMessage = errors.New("not a message of chat.v1")

// Clean cleans the name and the text of a message that comes from elsewhere, as those of a
// client. It reports false if no room can have said the message.
func (m *Message) Clean() bool {
	m.Name, m.Text = CleanName(m.Name), CleanText(m.Text)
	switch {
	case m.ID < 1, m.ID > MaxID, m.Text == "", len(m.Text) > MaxText:
		return false
	}
	return len(m.ClientMsgID) <= MaxClientMsgID && m.UserID != "" && len(m.UserID) <= maxUserID
}

// DecodeMessage reads what Encode returned. Somebody may have edited it since: the name and
// the text are cleaned as those of a client, and what no room can have said is an error.
func DecodeMessage(line []byte) (Message, error) {
	var o messageObject
	if !utf8.Valid(line) || json.Unmarshal(line, &o) != nil {
		return Message{}, errNotMessage
	}
	t, err := time.Parse(timeFormat, o.Time)
	m := Message{o.ID, t, o.UserID, o.Name, o.Text, o.ClientMsgID}
	if o.Type != "message" || err != nil || !m.Clean() {
		return Message{}, errNotMessage
	}
	return m, nil
}

// ShownName is what ChatV1 shows for a name, which may be "".
func ShownName(name string) string {
	if name == "" {
		return "guest"
	}
	return name
}

// Hello is the first object that a ChatV1 client receives. It comes once.
type Hello struct {
	Room   string
	Name   string // the client's own, as the others see it
	UserID string // the client's own
	LastID int64  // of the room's last message, or when the room began
	Missed bool   // messages after the client's resume position may be gone
	URL    string // at which other machines open the room; "" if they cannot or it is not for the client to know
}

// Encode returns the hello as ChatV1 spells it.
func (h Hello) Encode() []byte {
	return encode(struct {
		Type   string `json:"type"`
		Room   string `json:"room"`
		Name   string `json:"name"`
		UserID string `json:"from"`
		Max    int    `json:"max"`
		LastID int64  `json:"id"`
		Missed bool   `json:"missed"`
		URL    string `json:"url,omitempty"`
	}{"hello", h.Room, ShownName(h.Name), h.UserID, MaxText, h.LastID, h.Missed, h.URL})
}

// Online says who is in the room.
type Online struct {
	Count int      // of people, however many connections each has
	Names []string // sorted; nil when they are too many to list

	// UserIDs are those of the people, in the order of Names.
	UserIDs []string
}

// Encode returns the notice as ChatV1 spells it.
func (o Online) Encode() []byte {
	return encode(struct {
		Type  string   `json:"type"`
		Count int      `json:"count"`
		Names []string `json:"names,omitempty"`
		IDs   []string `json:"froms,omitempty"`
	}{"online", o.Count, o.Names, o.UserIDs})
}

// encode returns v as one line of JSON, without escapes for HTML: a page only ever
// sets it as text. It cannot fail for the types above.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// A ClientMessage is what a client sends. Its text is clean; a blank one, "", is to be
// ignored.
type ClientMessage struct {
	Text        string
	ClientMsgID string // always "" on Classic
}

// Decode reads the payload of a text message from a client that speaks p, of any
// length. If it breaks a rule, the error is a Disconnect.
func (p Protocol) Decode(frame []byte) (ClientMessage, error) {
	if len(frame) > p.ReadLimit() {
		return ClientMessage{}, MessageTooBig
	}
	if !utf8.Valid(frame) {
		return ClientMessage{}, InvalidUTF8
	}
	if p == Classic {
		return ClientMessage{Text: CleanLine(string(frame))}, nil
	}
	var m struct {
		Text string `json:"text"`
		Ref  string `json:"ref"`
	}
	// Unmarshal alone would take null, too.
	if !bytes.HasPrefix(bytes.TrimLeft(frame, " \t\r\n"), []byte("{")) || json.Unmarshal(frame, &m) != nil {
		return ClientMessage{}, InvalidJSON
	}
	if len(m.Ref) > MaxClientMsgID {
		return ClientMessage{}, ClientMsgIDTooLong
	}
	if len(m.Text) > MaxText {
		return ClientMessage{}, MessageTooBig
	}
	return ClientMessage{CleanText(m.Text), m.Ref}, nil
}
