package protocol

import "fmt"

// A Disconnect says why the server ends a connection. As an error it travels from where
// the reason is found to where the close frame is written.
type Disconnect struct {
	Code   int    // of the close frame (RFC 6455, section 7.4.1)
	Reason string // in the close frame and the log, for people to read; at most 123 bytes
	Cause  Cause  // what it is counted as
}

// Error returns the reason.
func (d Disconnect) Error() string { return d.Reason }

// A Cause is what a disconnect is counted as in metrics.
type Cause int

// The causes of disconnects.
const (
	NotDropped        Cause = iota // the client left, or the server stops: not counted
	IncompleteMessage              // a message was begun and not completed in time
	BadJSON                        // a ChatV1 message that is not the JSON object it must be
	BadUTF8                        // a text that is not UTF-8
	NotText                        // a binary message
	BrokenProtocol                 // a breach of RFC 6455
	Idle                           // nothing received for too long
	WriteTimedOut                  // the peer did not take a frame in time
	TooBig                         // a message longer than allowed
	SlowConsumer                   // the client does not read fast enough
	LogAway                        // the log that servers share is out of reach
	LogReplaced                    // the log that servers share was replaced by another
	NumCauses                      // how many causes there are
)

// String is the cause's label in metrics; "" for NotDropped.
func (c Cause) String() string {
	return [NumCauses]string{
		IncompleteMessage: "incomplete_message",
		BadJSON:           "invalid_json",
		BadUTF8:           "invalid_utf8",
		NotText:           "unsupported_data",
		BrokenProtocol:    "protocol_error",
		Idle:              "idle_timeout",
		WriteTimedOut:     "write_timeout",
		TooBig:            "message_too_big",
		SlowConsumer:      "slow_consumer",
		LogAway:           "log_away",
		LogReplaced:       "log_replaced",
	}[c]
}

// A Refusal is why a request did not become a connection, or got no history, as counted in
// metrics.
type Refusal int

// The refusals.
const (
	ServerFull     Refusal = iota // as many connections as allowed
	BadHandshake                  // an upgrade that breaks RFC 6455
	NotWebSocket                  // no upgrade was asked for
	BadOrigin                     // a page that may not join
	BadQuery                      // a query that cannot be read
	BadRoomName                   // no room can have this name
	TooManyRooms                  // as many rooms as allowed, all of them in use
	LogUnreachable                // the log that servers share is out of reach
	HistoryLimit                  // the history was asked for too often
	NumRefusals                   // how many refusals there are
)

// String is the refusal's label in metrics.
func (r Refusal) String() string {
	return [NumRefusals]string{
		ServerFull:     "server_full",
		BadHandshake:   "bad_handshake",
		NotWebSocket:   "not_websocket",
		BadOrigin:      "origin",
		BadQuery:       "bad_query",
		BadRoomName:    "room_name",
		TooManyRooms:   "too_many_rooms",
		HistoryLimit:   "history_limit",
		LogUnreachable: "log_unreachable",
	}[r]
}

// Disconnects for what a client sends, whenever it comes. The codes are those of RFC 6455,
// section 7.4.1.
var (
	// MessageTooBig ends a connection whose message is longer than allowed.
	MessageTooBig = Disconnect{1009, fmt.Sprintf("a message may have %d bytes", MaxText), TooBig}

	// InvalidUTF8 ends a connection whose text is not UTF-8.
	InvalidUTF8 = Disconnect{1007, "text must be UTF-8", BadUTF8}

	// UnsupportedData ends a connection that sends a binary message.
	UnsupportedData = Disconnect{1003, "only text is said here", NotText}

	// InvalidJSON ends a ChatV1 connection whose message is not the object it must be.
	InvalidJSON = Disconnect{1008, `a frame must be a JSON object {"text":"…","ref":"…"}`, BadJSON}

	// ClientMsgIDTooLong ends a ChatV1 connection whose "ref" is longer than allowed.
	ClientMsgIDTooLong = Disconnect{1008, fmt.Sprintf("a ref may have %d bytes", MaxClientMsgID), TooBig}
)

// ProtocolError ends a connection that breaks RFC 6455 in the way that reason says.
func ProtocolError(reason string) Disconnect {
	return Disconnect{1002, reason, BrokenProtocol}
}
