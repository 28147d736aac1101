package natslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"chat/internal/protocol"
)

const (
	// maxTurnLines is how many lines a turn has, at most. It is under idsPerTurn.
	maxTurnLines = 900

	// maxTurnBytes is the length in bytes of a turn, at most.
	maxTurnBytes = 128 << 10

	// maxLineBytes is the length in bytes of a line in a turn, at most: JSON may double a text.
	maxLineBytes = 2*protocol.MaxText + 2<<10

	// idsPerTurn is how many ids there are for each sequence number of the stream.
	idsPerTurn = 1000

	// timeFormat is how a turn gives its time, which is in UTC.
	timeFormat = "2006-01-02T15:04:05.000Z"
)

// endID returns an id that is larger than those of the turns up to a sequence number, and
// smaller than those of later turns.
func endID(seq uint64) int64 { return int64(seq)*idsPerTurn + idsPerTurn - 1 }

// A Line is what a client says.
type Line struct {
	UserID      string `json:"from"`
	Name        string `json:"name,omitempty"`
	Text        string `json:"text"`
	ClientMsgID string `json:"ref,omitempty"`
}

// encode returns the line in JSON, as it is in a turn.
func (line Line) encode() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(line); err != nil { // strings can be encoded
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// encodeTurn returns a turn of lines that are encoded and joined by commas.
func encodeTurn(lines []byte, now time.Time) []byte {
	turn := make([]byte, 0, len(lines)+64)
	turn = append(turn, `{"time":"`...)
	turn = now.UTC().AppendFormat(turn, timeFormat)
	turn = append(turn, `","lines":[`...)
	turn = append(turn, lines...)
	return append(turn, "]}"...)
}

// errUnreadable says that a message of the stream is no turn.
var errUnreadable = errors.New("not a turn of this version")

// decodeTurn reads a turn with a sequence number. The lines have their ids; those that no
// client can have said are left out, and counted.
func decodeTurn(data []byte, seq uint64) (lines []protocol.Message, skipped int, err error) {
	var t struct {
		Time  string            `json:"time"`
		Lines []json.RawMessage `json:"lines"`
	}
	if len(data) > 2*maxTurnBytes || !utf8.Valid(data) || json.Unmarshal(data, &t) != nil {
		return nil, 0, errUnreadable
	}
	at, err := time.Parse(timeFormat, t.Time)
	if err != nil || len(t.Lines) == 0 || len(t.Lines) >= idsPerTurn {
		return nil, 0, errUnreadable
	}
	for place, raw := range t.Lines {
		var line Line
		if json.Unmarshal(raw, &line) != nil {
			skipped++
			continue
		}
		m := protocol.Message{
			ID:          int64(seq)*idsPerTurn + int64(place),
			Time:        at,
			UserID:      line.UserID,
			Name:        line.Name,
			Text:        line.Text,
			ClientMsgID: line.ClientMsgID,
		}
		if !m.Clean() {
			skipped++
			continue
		}
		lines = append(lines, m)
	}
	return lines, skipped, nil
}

// A turnID names a turn: its publisher, and the turn's number there, from 1 on.
type turnID struct {
	publisher string
	n         uint64
}

// String returns the id as it is in a message's header.
func (id turnID) String() string { return id.publisher + "." + strconv.FormatUint(id.n, 10) }

// parseTurnID reads what String returned.
func parseTurnID(text string) (id turnID, ok bool) {
	publisher, number, _ := strings.Cut(text, ".")
	n, err := strconv.ParseUint(number, 10, 64)
	return turnID{publisher, n}, err == nil && publisher != "" && len(publisher) <= 64
}
