// Package protocol is what goes over a connection: the two protocols that a client may
// speak, what their frames hold and how long they may be, and why a connection ends.
// It knows no connection, no room and no clock.
package protocol

// Subprotocol is the WebSocket subprotocol (RFC 6455, section 1.9) that a client asks for
// to speak ChatV1.
const Subprotocol = "chat.v1"

// MaxText is the length in bytes of one message's text, as received, at most.
const MaxText = 4096

// MaxClientFrame is the length in bytes of a ChatV1 client's message, at most. It is more
// than MaxText, because a JSON escape takes up to six bytes for one.
const MaxClientFrame = 32 * 1024

// MaxClientMsgID is the length in bytes of a client's own id for its message (the JSON
// field "ref"), at most.
const MaxClientMsgID = 64

// MaxName is the length in code points of a user's name; a longer one is cut.
const MaxName = 32

// MaxRoomName is the length in code points of a room's name, at most.
const MaxRoomName = 32

// MaxFrame is the length in bytes of the payload of a frame to a client, at most. Some
// clients refuse frames of more than twice that.
const MaxFrame = 16 * 1024

// A Protocol is one of the ways in which client and server may speak.
type Protocol int

const (
	// Classic is the gorilla example's protocol: a text frame holds bare lines of text.
	// Who asks for no subprotocol speaks it.
	Classic Protocol = iota

	// ChatV1 is the protocol of the page: a text frame holds JSON objects, one a line. Who
	// asks for Subprotocol speaks it.
	ChatV1

	// NumProtocols is how many protocols there are. Arrays by protocol have this length.
	NumProtocols
)

// String names the protocol, as in metrics.
func (p Protocol) String() string {
	return [...]string{Classic: "classic", ChatV1: Subprotocol}[p]
}

// ReadLimit is the length in bytes of a message from a client that speaks p, at most.
func (p Protocol) ReadLimit() int {
	if p == ChatV1 {
		return MaxClientFrame
	}
	return MaxText
}
