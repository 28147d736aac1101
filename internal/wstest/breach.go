package wstest

import (
	"strings"

	"chat/internal/protocol"
)

// A Breach is what no well-behaved client sends, after the handshake.
type Breach struct {
	Rule        string // what it breaks
	Subprotocol string // that the client speaks; "" for the classic protocol
	Send        string
	Code        int // of the close frame with which the server answers
}

// Breaches are one of each kind: on the classic protocol by section of RFC 6455 and, where
// there is one, case of the Autobahn test suite; then those of chat.v1. The server tells
// the client what is wrong and disconnects it. Whole messages that it sent before count,
// and nothing after.
var Breaches = []Breach{
	{"5.1: unmasked", "", "\x81\x05hello", 1002},
	{"5.2, 3.1: RSV1 without an extension", "", Masked(Fin|0x40|Text, "hello"), 1002},
	{"5.2, 3.2: RSV2", "", Masked(Fin|0x20|Text, "hello"), 1002},
	{"5.2, 3.3: RSV2 and RSV1", "", Masked(Fin|0x60|Text, "hello"), 1002},
	{"5.2, 3.4: RSV3", "", Masked(Fin|0x10|Text, "hello"), 1002},
	{"5.2, 3.6: RSV on a ping", "", Masked(Fin|0x50|Ping, ""), 1002},
	{"5.2, 4.1: reserved data opcodes", "", Masked(Fin|0x3, ""), 1002},
	{"5.2, 4.1: the last of them", "", Masked(Fin|0x7, "hello"), 1002},
	{"5.2, 4.2: reserved control opcodes", "", Masked(Fin|0xB, ""), 1002},
	{"5.2, 4.2: the last of them", "", Masked(Fin|0xF, "hello"), 1002},
	{"5.4, 5.9: continuation of nothing", "", Masked(Fin|Continuation, "hello"), 1002},
	{"5.4, 5.12: the same, not final", "", Masked(Continuation, "hello"), 1002},
	{"5.4, 5.18: text inside a fragmented message", "", Masked(Text, "he") + Masked(Fin|Text, "llo"), 1002},
	{"5.5, 2.5: ping longer than 125 bytes", "", Masked(Fin|Ping, strings.Repeat("x", 126)), 1002},
	{"5.5, 5.1: fragmented ping", "", Masked(Ping, "hello") + Masked(Fin|Continuation, ""), 1002},
	{"5.5, 5.2: fragmented pong", "", Masked(Pong, "hello") + Masked(Fin|Continuation, ""), 1002},
	{"5.5, 7.3.6: close longer than 125 bytes", "", Masked(Fin|Close, Closing(1000, strings.Repeat("x", 124))), 1002},
	{"5.5.1, 7.3.2: close with one byte of payload", "", Masked(Fin|Close, "x"), 1002},
	{"7.4, 7.9.1: close code 0", "", Masked(Fin|Close, Closing(0, "")), 1002},
	{"7.4, 7.9.2: close code 999", "", Masked(Fin|Close, Closing(999, "")), 1002},
	{"7.4, 7.9.3: close code 1004", "", Masked(Fin|Close, Closing(1004, "")), 1002},
	{"7.4, 7.9.4: close code 1005", "", Masked(Fin|Close, Closing(1005, "")), 1002},
	{"7.4, 7.9.5: close code 1006", "", Masked(Fin|Close, Closing(1006, "")), 1002},
	{"7.4, 7.9.9: close code 2999", "", Masked(Fin|Close, Closing(2999, "")), 1002},
	{"7.4, 7.13.1: close code 5000", "", Masked(Fin|Close, Closing(5000, "")), 1002},

	{"5.6: binary", "", Masked(Fin|Binary, "hello"), 1003},
	{"5.6: binary, empty", "", Masked(Fin|Binary, ""), 1003},
	{"5.6: binary in fragments", "", Masked(Binary, "he") + Masked(Fin|Continuation, "llo"), 1003},

	{"8.1, 6.3.1: not UTF-8", "", Masked(Fin|Text, "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"), 1007},
	{"8.1: two bytes", "", Masked(Fin|Text, "\xff\xfe"), 1007},
	{"8.1, 6.4.1: not UTF-8, in fragments", "", Masked(Text, "caf") + Masked(Continuation, "\xc3") + Masked(Fin|Continuation, "\x28"), 1007},
	{"8.1, 6.6: a code point cut off at the end", "", Masked(Fin|Text, "caf\xc3"), 1007},
	{"8.1, 6.21: a surrogate", "", Masked(Fin|Text, "\xed\xa0\x80"), 1007},

	{"10.4: one byte too long", "", Masked(Fin|Text, strings.Repeat("x", protocol.MaxText+1)), 1009},
	{"10.4: too long, in fragments", "", Masked(Text, strings.Repeat("x", protocol.MaxText)) + Masked(Fin|Continuation, "x"), 1009},
	{"10.4: much too long, and much more behind it", "", strings.Repeat(Masked(Fin|Text, strings.Repeat("x", 40_000)), 20), 1009},
	{"10.4: a header that promises a terabyte", "", Lying(Fin|Text, 1<<40, strings.Repeat("x", 2*protocol.MaxText)), 1009},
	{"10.4: a fragment that promises all there is", "", Masked(Text, "x") + Lying(Fin|Continuation, 1<<63-1, strings.Repeat("x", 2*protocol.MaxText)), 1009},
	{"5.2, 10.4: a length with its first bit set", "", Lying(Fin|Text, 1<<63, strings.Repeat("x", 2*protocol.MaxText)), 1009},

	// Known differences: the library decides by itself.
	{"7.4.2: close code 1014, registered since, is taken for an error, not answered in kind", "", Masked(Fin|Close, Closing(1014, "")), 1002},
	{"8.1, 7.5.1: a close reason that is not UTF-8 is an error of the protocol, not of the data (1007)", "", Masked(Fin|Close, Closing(1000, "\xff")), 1002},

	// On chat.v1 (docs/protocol.md).
	{"not JSON", protocol.Subprotocol, Masked(Fin|Text, `hello`), 1008},
	{"nothing", protocol.Subprotocol, Masked(Fin|Text, ``), 1008},
	{"an array", protocol.Subprotocol, Masked(Fin|Text, `["text"]`), 1008},
	{"a string", protocol.Subprotocol, Masked(Fin|Text, `"text"`), 1008},
	{"null", protocol.Subprotocol, Masked(Fin|Text, `null`), 1008},
	{"half an object", protocol.Subprotocol, Masked(Fin|Text, `{"text":"hello"`), 1008},
	{"two objects", protocol.Subprotocol, Masked(Fin|Text, `{"text":"hello"}{"text":"hello"}`), 1008},
	{"a text that is a number", protocol.Subprotocol, Masked(Fin|Text, `{"text":1}`), 1008},
	{"a ref that is an object", protocol.Subprotocol, Masked(Fin|Text, `{"text":"hello","ref":{}}`), 1008},
	{"a ref one byte too long", protocol.Subprotocol, Masked(Fin|Text, `{"text":"hello","ref":"`+strings.Repeat("x", protocol.MaxClientMsgID+1)+`"}`), 1008},
	{"nested too deep", protocol.Subprotocol, Masked(Fin|Text, strings.Repeat(`{"text":`, 4000)), 1008},
	{"a text one byte too long", protocol.Subprotocol, Masked(Fin|Text, `{"text":"`+strings.Repeat("x", protocol.MaxText+1)+`"}`), 1009},
	{"a message one byte too long", protocol.Subprotocol, Masked(Fin|Text, strings.Repeat(" ", protocol.MaxClientFrame-13)+`{"text":"hi"}`+" "), 1009},
	{"not UTF-8", protocol.Subprotocol, Masked(Fin|Text, "{\"text\":\"\xff\"}"), 1007},
	{"binary in fragments", protocol.Subprotocol, Masked(Binary, "he") + Masked(Fin|Continuation, "llo"), 1003},
}

// An Oddity is what few clients send after the handshake, and may.
type Oddity struct {
	Rule  string // that allows it
	Send  string
	Lines []string // that the room receives
}

// Oddities are one of each kind, on the classic protocol, by section of RFC 6455 and case
// of the Autobahn test suite.
var Oddities = []Oddity{
	{"5.4, 5.3: fragments", Masked(Text, "he") + Masked(Continuation, "l") + Masked(Fin|Continuation, "lo"), []string{"hello"}},
	{"5.4, 5.6: a ping between them", Masked(Text, "hel") + Masked(Fin|Ping, "!") + Masked(Fin|Continuation, "lo"), []string{"hello"}},
	{"5.4, 6.2.3: UTF-8 cut by fragments", Masked(Text, "caf\xc3") + Masked(Fin|Continuation, "\xa9"), []string{"café"}},
	{"5.4, 5.8: empty fragments", Masked(Text, "") + Masked(Continuation, "hello") + Masked(Fin|Continuation, ""), []string{"hello"}},
	{"5.5.3, 2.7: a pong nobody asked for", Masked(Fin|Pong, "hm") + Masked(Fin|Text, "hello"), []string{"hello"}},
	{"5.6, 1.1.1: empty, blank, all controls", Masked(Fin|Text, "") + Masked(Fin|Text, " \n\t ") + Masked(Fin|Text, "\x00\x01\u2028"), nil},
	{"exactly as long as it may be", Masked(Fin|Text, strings.Repeat("x", protocol.MaxText)), []string{strings.Repeat("x", protocol.MaxText)}},
	{"the longest, in the longest runes", Masked(Fin|Text, strings.Repeat("😀", protocol.MaxText/4)), []string{strings.Repeat("😀", protocol.MaxText/4)}},
	{"several lines are one", Masked(Fin|Text, "one\r\ntwo\u2029three\n"), []string{"one  two three"}},
	{"5.2: a length in more bytes than it needs", "\x81\xfe\x00\x05\x00\x00\x00\x00hello", []string{"hello"}},
}
