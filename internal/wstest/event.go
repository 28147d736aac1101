package wstest

import (
	"encoding/json"
	"fmt"
	"strings"

	"chat/internal/protocol"
)

// An Event is a line that a client receives: an object of chat.v1, or a line of the
// classic protocol, of which only Text is set.
type Event struct {
	Type   string   `json:"type"`
	Room   *string  `json:"room"`
	Name   string   `json:"name"`
	From   string   `json:"from"`
	Max    int      `json:"max"`
	ID     int64    `json:"id"`
	Missed bool     `json:"missed"`
	URL    string   `json:"url"`
	Time   string   `json:"time"`
	Text   string   `json:"text"`
	Ref    string   `json:"ref"`
	Count  int      `json:"count"`
	Names  []string `json:"names"`
	Froms  []string `json:"froms"`

	Line string `json:"-"` // as received
}

// Events returns the lines of a text frame to a client that speaks p. On the classic
// protocol each is an Event of type "message". It fails for a frame that is too long,
// and for a line that is not JSON where it must be.
func Events(p protocol.Protocol, frame []byte) ([]Event, error) {
	if len(frame) > protocol.MaxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", len(frame))
	}
	var events []Event
	for line := range strings.SplitSeq(string(frame), "\n") {
		e := Event{Type: "message", Text: line}
		if p == protocol.ChatV1 {
			e = Event{}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return nil, fmt.Errorf("%.100q: %w", line, err)
			}
		}
		e.Line = line
		events = append(events, e)
	}
	return events, nil
}
