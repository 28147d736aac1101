package access

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestParseProxies(t *testing.T) {
	for list, want := range map[string]string{
		"":                         "[]",
		"127.0.0.1":                "[127.0.0.1/32]",
		"10.1.2.3/8, ::1,fd00::/8": "[10.0.0.0/8 ::1/128 fd00::/8]",
		"::ffff:10.0.0.1":          "[10.0.0.1/32]",
		"nginx":                    "error",
		"127.0.0.1,,::1":           "error",
		"127.0.0.1/33":             "error",
		"127.0.0.1:80":             "error",
	} {
		prefixes, err := ParseProxies(list)
		got := fmt.Sprint(prefixes)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", list, got, want)
		}
	}
}

// The log names the client of a proxy on this machine. From elsewhere the header is not
// trusted.
func TestPeerOf(t *testing.T) {
	proxies, _ := ParseProxies("127.0.0.0/8,::1,10.0.0.7")
	for _, request := range []struct {
		peer      string
		forwarded []string
		addr      string // "" for none
		want      string
	}{
		{"127.0.0.1:5", nil, "127.0.0.1", "127.0.0.1:5"},
		{"127.0.0.1:5", []string{"203.0.113.9"}, "203.0.113.9", `127.0.0.1:5 for "203.0.113.9"`},
		{"[::1]:5", []string{"198.51.100.1, 203.0.113.9"}, "203.0.113.9", `[::1]:5 for "203.0.113.9"`},
		{"[::ffff:127.0.0.1]:5", []string{"198.51.100.1", "2001:db8::9"}, "2001:db8::9", `[::ffff:127.0.0.1]:5 for "2001:db8::9"`},
		{"10.0.0.7:5", []string{"::ffff:203.0.113.9"}, "203.0.113.9", `10.0.0.7:5 for "::ffff:203.0.113.9"`},
		{"127.0.0.1:5", []string{"203.0.113.9, unknown"}, "127.0.0.1", `127.0.0.1:5 for "unknown"`},
		{"127.0.0.1:5", []string{"203.0.113.9:80"}, "127.0.0.1", `127.0.0.1:5 for "203.0.113.9:80"`},
		{"127.0.0.1:5", []string{"203.0.113.9", ""}, "127.0.0.1", `127.0.0.1:5 for ""`},
		{"127.0.0.1:5", []string{"\x1b[31mred\n"}, "127.0.0.1", `127.0.0.1:5 for "\x1b[31mred"`},
		{"127.0.0.1:5", []string{strings.Repeat("9", 5000)}, "127.0.0.1", `127.0.0.1:5 for "` + strings.Repeat("9", 60) + `"`},
		{"203.0.113.7:5", []string{"127.0.0.1"}, "203.0.113.7", "203.0.113.7:5"},
		{"10.0.0.8:5", []string{"127.0.0.1"}, "10.0.0.8", "10.0.0.8:5"},
		{"pipe", []string{"127.0.0.1"}, "", "pipe"},
	} {
		r := &http.Request{RemoteAddr: request.peer, Header: http.Header{"X-Forwarded-For": request.forwarded}}
		addr, got := proxies.PeerOf(r)
		if got != request.want || addr.IsValid() != (request.addr != "") || addr.IsValid() && addr.String() != request.addr {
			t.Errorf("%v: %v, %s", request, addr, got)
		}
	}
}
