package access

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestParseOrigins(t *testing.T) {
	for list, want := range map[string]string{
		"":                                "[]",
		"chat.example":                    "[chat.example]",
		"a.example, b.example:8080,[::1]": "[a.example b.example:8080 [::1]]",
		"http://chat.example":             "error",
		"chat.example/":                   "error",
		"a.example,,b.example":            "error",
		":8080":                           "error",
		"a b":                             "error",
		"a.example:http":                  "error",
		"user@a.example":                  "error",
	} {
		hosts, err := ParseOrigins(list)
		got := fmt.Sprint(hosts)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", list, got, want)
		}
	}
}

// Pages may join from the host that they came from. With -origin, only pages of the listed
// hosts may, and those of an address that no name server was asked for.
func TestAllow(t *testing.T) {
	listed := Origins{"chat.example", "other.example:8443", "[2001:db8::7]"}
	for _, page := range []struct {
		origins Origins // of -origin
		host    string  // that the page asks
		origin  string  // where the page comes from
		allowed bool
	}{
		{nil, "chat.test", "http://chat.test", true},
		{nil, "chat.test", "https://CHAT.test", true}, // TLS ends at a proxy
		{nil, "chat.test:8080", "http://chat.test:8080", true},
		{nil, "192.168.1.5:8080", "http://192.168.1.5:8080", true},
		{nil, "[::1]:8080", "http://[::1]:8080", true},
		{nil, "chat.test", "http://evil.test", false},
		{nil, "chat.test:8080", "http://chat.test", false},
		{nil, "chat.test", "null", false}, // a sandboxed frame, a file
		{nil, "", "null", false},
		{nil, "chat.test", "http://chat.test.evil.test", false},
		{nil, "chat.test", "://", false},

		{listed, "127.0.0.1:8080", "https://chat.example", true},
		{listed, "127.0.0.1:8080", "https://chat.example:1234", true},
		{listed, "127.0.0.1:8080", "https://Other.Example:8443", true},
		{listed, "127.0.0.1:8080", "https://other.example", false},
		{listed, "127.0.0.1:8080", "https://[2001:db8::7]", true},
		{listed, "127.0.0.1:8080", "https://[2001:db8::7]:8443", true},
		{listed, "127.0.0.1:8080", "http://127.0.0.1:8080", true},
		{listed, "localhost:8080", "http://localhost:8080", true},
		{listed, "[::1]:8080", "http://[::1]:8080", true},
		{listed, "127.0.0.1:8080", "http://192.0.2.66", false},           // another machine's page
		{listed, "rebound.test:8080", "http://rebound.test:8080", false}, // DNS rebinding
		{listed, "localhost.evil.test", "http://localhost.evil.test", false},
	} {
		r := &http.Request{Host: page.host, Header: http.Header{"Origin": {page.origin}}}
		if got := page.origins.Allow(r); got != page.allowed {
			t.Errorf("-origin %q, a page of %q asks %q: %v", page.origins, page.origin, page.host, got)
		}
	}
	for _, request := range []struct {
		header  http.Header
		allowed bool
	}{
		{http.Header{}, true}, // a program that is no browser
		{http.Header{"Origin": {"https://chat.example", "https://chat.example"}}, false},
	} {
		if got := listed.Allow(&http.Request{Header: request.header}); got != request.allowed {
			t.Errorf("%v: %v", request.header, got)
		}
	}
}

// A page's origin counts with its scheme: only http and https are pages of a host.
func TestScheme(t *testing.T) {
	for _, origins := range []Origins{nil, {"chat.example"}} {
		for origin, want := range map[string]bool{
			"http://chat.example":             true,
			"https://chat.example":            true,
			"chrome-extension://chat.example": false,
			"file://chat.example":             false,
			"ws://chat.example":               false,
			"//chat.example":                  false,
		} {
			r := httptest.NewRequest("GET", "http://chat.example/ws", nil)
			r.Header.Set("Origin", origin)
			if origins.Allow(r) != want {
				t.Errorf("%q with -origin %q: %v", origin, origins, !want)
			}
		}
	}
}

// A page may read what its own host has. With a list, only one of the listed hosts, or of an
// address: no name server may have sent it there.
func TestAllowRead(t *testing.T) {
	listed := Origins{"chat.example", "other.example:8443"}
	for _, page := range []struct {
		origins Origins // of -origin
		host    string  // that is asked
		origin  string  // that the browser names; "" for none
		allowed bool
	}{
		{nil, "chat.test", "", true},
		{nil, "rebound.test:8080", "", true},
		{nil, "chat.test", "http://chat.test", true},
		{nil, "chat.test", "http://evil.test", false},
		{nil, "chat.test", "null", false},
		{listed, "chat.example", "", true},
		{listed, "Chat.Example:1234", "", true},
		{listed, "other.example:8443", "", true},
		{listed, "other.example", "", false},
		{listed, "127.0.0.1:8080", "", true}, // behind a proxy that does not pass on the host, or here
		{listed, "[::1]:8080", "", true},
		{listed, "localhost:8080", "", true},
		{listed, "rebound.test:8080", "", false},
		{listed, "localhost.evil.test", "", false},
		{listed, "", "", false},
		{listed, "127.0.0.1:8080", "https://chat.example", true},
		{listed, "127.0.0.1:8080", "http://evil.test", false},
		{listed, "chat.example", "http://evil.test", false},
	} {
		r := &http.Request{Host: page.host, Header: http.Header{}}
		if page.origin != "" {
			r.Header.Set("Origin", page.origin)
		}
		if _, got := page.origins.AllowRead(r); got != page.allowed {
			t.Errorf("-origin %q, a page of %q asks %q: %v", page.origins, page.origin, page.host, got)
		}
	}
}
