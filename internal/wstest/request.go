package wstest

import "strings"

// A Request is one that does not become a WebSocket connection.
type Request struct {
	What   string
	Send   string // up to the end of the headers
	Status int    // of the answer
	Header string // a line that the answer has, name as net/http spells it; "" for none
}

// PlainGet asks for a path of a host without an upgrade. More are header lines.
func PlainGet(host, path string, more ...string) string {
	return "GET " + path + " HTTP/1.1\r\n" + strings.Join(append([]string{"Host: " + host}, more...), "\r\n") + "\r\n\r\n"
}

// WithHeader adds a header line to a request.
func WithHeader(request, line string) string {
	return strings.Replace(request, "\r\n\r\n", "\r\n"+line+"\r\n\r\n", 1)
}

// Requests returns one of each kind that a server on host refuses, or takes for what it
// is not.
func Requests(host string) []Request {
	handshake := Handshake(host, "/ws", "")
	const upgrade = "Upgrade: websocket"
	const noStore = "Cache-Control: no-store"
	return []Request{
		{"another path", PlainGet(host, "/secret"), 404, ""},
		{"POST to the page", "POST / HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\n\r\n", 405, "Allow: GET, HEAD"},
		{"POST to the chat", "POST /ws HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\n\r\n", 405, "Allow: GET, HEAD"},
		{"a plain GET of the chat", PlainGet(host, "/ws"), 426, upgrade},
		{"a plain GET from a foreign page", PlainGet(host, "/ws", "Origin: http://evil.test"), 426, upgrade},
		{"a handshake in HTTP/1.0", strings.Replace(handshake, "HTTP/1.1", "HTTP/1.0", 1), 426, upgrade},
		{"a handshake from a foreign page", WithHeader(handshake, "Origin: http://evil.test"), 403, ""},
		{"a bad room name", Handshake(host, "/ws?room=a%2Fb", ""), 400, ""},
		{"a query that cannot be read", Handshake(host, "/ws?room=%zz", ""), 400, ""},
		{"half an escape in a query", Handshake(host, "/ws?room=secret%", ""), 400, ""},
		{"a semicolon in a query", Handshake(host, "/ws?room=a;b", ""), 400, ""},
		{"HEAD with an upgrade", strings.Replace(handshake, "GET", "HEAD", 1), 405, "Allow: GET"},
		{"a bad key", strings.Replace(handshake, HandshakeKey, "short", 1), 400, "Sec-Websocket-Version: 13"},
		{"an old version", strings.Replace(handshake, "Version: 13", "Version: 8", 1), 400, "Sec-Websocket-Version: 13"},
		{"POST to the history", "POST /history HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\n\r\n", 405, "Allow: GET, HEAD"},
		{"DELETE of the history", "DELETE /history HTTP/1.1\r\nHost: " + host + "\r\n\r\n", 405, "Allow: GET, HEAD"},
		{"the history of a bad room", PlainGet(host, "/history?room=a%2Fb"), 400, noStore},
		{"the history with a bad query", PlainGet(host, "/history?room=%zz"), 400, noStore},
		{"the history before no id", PlainGet(host, "/history?before=yesterday"), 400, noStore},
		{"the history before a negative id", PlainGet(host, "/history?before=-1"), 400, noStore},
		{"the history before 2^63", PlainGet(host, "/history?before=9223372036854775808"), 400, noStore},
		{"the history before an id of 30 digits", PlainGet(host, "/history?before="+strings.Repeat("9", 30)), 400, noStore},
		{"the history for a foreign page", PlainGet(host, "/history", "Origin: http://evil.test"), 403, noStore},
		{"the history for a sandboxed page", PlainGet(host, "/history", "Origin: null"), 403, noStore},
		{"headers of 20 KiB", PlainGet(host, "/", "X: "+strings.Repeat("x", 20<<10)), 431, ""},
		{"headers of 10 KiB", PlainGet(host, "/", "X: "+strings.Repeat("x", 10<<10)), 200, ""},
		{"no HTTP", "hello\r\n\r\n", 400, ""},
	}
}
