package main

import (
	"encoding/json"
	"fmt"

	"chat/internal/protocol"
)

// lineSize is the length of every line's text in bytes.
const lineSize = 64

// A lineID names a line: the speaker's number-th, from 0 on.
type lineID struct{ speaker, number int }

// text returns what the line says.
func (id lineID) text() string {
	return fmt.Sprintf("speaker %04d says line %08d of a load, in sixty-four bytes..", id.speaker, id.number)
}

// encode returns the payload with which a client sends the line.
func (id lineID) encode(subprotocol string) string {
	if subprotocol == protocol.Subprotocol {
		return `{"text":"` + id.text() + `"}`
	}
	return id.text()
}

// decode returns the text in a line of a server's frame. It reports false for a notice.
func decode(line []byte, subprotocol string) (text string, ok bool, err error) {
	if subprotocol != protocol.Subprotocol {
		return string(line), true, nil
	}
	var message struct{ Type, Text string }
	if err := json.Unmarshal(line, &message); err != nil {
		return "", false, fault(fmt.Sprintf("sent %q: %v", line, err))
	}
	return message.Text, message.Type == "message", nil
}
