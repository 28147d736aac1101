package page

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
)

// html is the page that the server embeds.
func html(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../home.html")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// get asks a page for itself; headers are lines.
func get(p *Page, method string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", nil)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

func TestHeaders(t *testing.T) {
	text := html(t)
	w := get(New(text), "GET")
	if w.Code != http.StatusOK || w.Body.String() != strings.ReplaceAll(text, "\r\n", "\n") {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
	for name, want := range map[string]string{
		"Content-Type":           "text/html; charset=utf-8",
		"Cache-Control":          "no-cache",
		"X-Content-Type-Options": "nosniff",
		"X-Frame-Options":        "DENY",
		"Referrer-Policy":        "no-referrer",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	policy := w.Header().Get("Content-Security-Policy")
	for _, part := range []string{
		"default-src 'none'", "frame-ancestors 'none'", "connect-src 'self' ws: wss:", "img-src data:;",
		"script-src 'sha256-" + digest(element(text, "script")) + "'",
		"style-src 'sha256-" + digest(element(text, "style")) + "'",
	} {
		if !strings.Contains(policy, part) {
			t.Errorf("the policy lacks %q: %s", part, policy)
		}
	}
	if strings.Contains(policy, "unsafe") || element(text, "script") == "" || element(text, "style") == "" {
		t.Errorf("the policy allows too much, or hashes nothing: %s", policy)
	}
	w = get(New(text), "GET", "If-None-Match: "+w.Header().Get("ETag"))
	if w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("asked again with the ETag: %d, %d bytes", w.Code, w.Body.Len())
	}
}

func TestLinesEndInLF(t *testing.T) {
	w := get(New("<script>a\r\nb\nc\r</script>"), "GET")
	if got := w.Body.String(); got != "<script>a\nb\nc\r</script>" {
		t.Errorf("%q", got)
	}
	if want := "script-src 'sha256-" + digest("a\nb\nc\r") + "'"; !strings.Contains(w.Header().Get("Content-Security-Policy"), want) {
		t.Errorf("the policy lacks %q", want)
	}
}

// Either encoding has the whole page and an ETag of its own, whatever the method. Who has it
// already gets no body.
func TestEncodings(t *testing.T) {
	text := strings.ReplaceAll(html(t), "\r\n", "\n")
	p := New(text)
	etags := map[string]string{}
	for _, encoding := range []string{"", "gzip"} {
		accept := "Accept-Encoding: " + encoding
		w := get(p, "GET", accept)
		body := w.Body.Bytes()
		if got := w.Header().Get("Content-Length"); got != strconv.Itoa(len(body)) {
			t.Errorf("%q: a length of %q for %d bytes", encoding, got, len(body))
		}
		if encoding == "gzip" {
			if len(body) > len(text)/2 {
				t.Errorf("%d bytes are compressed to %d", len(text), len(body))
			}
			body = unzip(t, body)
		}
		if w.Code != 200 || string(body) != text || w.Header().Get("Content-Encoding") != encoding || w.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: %d %v", encoding, w.Code, w.Header())
		}
		head := get(p, "HEAD", accept)
		for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Security-Policy", "Etag", "Vary"} {
			if got, want := head.Header().Get(name), w.Header().Get(name); got != want || head.Body.Len() > 0 {
				t.Errorf("%q: HEAD has %q as %s, and %d bytes, GET has %q", encoding, got, name, head.Body.Len(), want)
			}
		}
		etags[encoding] = w.Header().Get("ETag")
	}
	if etags[""] == etags["gzip"] {
		t.Errorf("both encodings have the ETag %s", etags[""])
	}
	for _, ask := range []struct {
		encoding, match string
		status          int
	}{
		{"", etags[""], 304},
		{"gzip", etags["gzip"], 304},
		{"gzip", "W/" + etags["gzip"], 304}, // as a proxy makes it
		{"gzip", `"x", ` + etags["gzip"], 304},
		{"gzip", "*", 304},
		{"", etags["gzip"], 200},
		{"gzip", etags[""], 200},
	} {
		w := get(p, "GET", "Accept-Encoding: "+ask.encoding, "If-None-Match: "+ask.match)
		if w.Code != ask.status || (w.Body.Len() > 0) != (w.Code == 200) {
			t.Errorf("%q with %s: %d, %d bytes", ask.encoding, ask.match, w.Code, w.Body.Len())
		}
		if w.Header().Get("ETag") != etags[ask.encoding] || w.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q with %s: %v", ask.encoding, ask.match, w.Header())
		}
	}
	if w := get(p, "GET", "Accept-Encoding: gzip", `If-Match: "x"`); w.Code != 412 || w.Body.Len() > 0 || w.Header().Get("Content-Length") != "" {
		t.Errorf("another page than this was wanted: %d %v", w.Code, w.Header())
	}
	if w := get(p, "GET", "Accept-Encoding: gzip", "Range: bytes=0-9"); w.Code != 206 || w.Body.Len() != 10 || w.Header().Get("Content-Length") != "10" {
		t.Errorf("ten bytes: %d %v, %d bytes", w.Code, w.Header(), w.Body.Len())
	}
}

func unzip(t *testing.T, compressed []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return text
}

func TestPrefersGzip(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                               false,
		"gzip":                           true,
		"GZip":                           true,
		"x-gzip":                         true,
		"gzip, deflate, br, zstd":        true,
		"deflate, br":                    false,
		"br;q=1.0, gzip;q=0.8, *;q=0.1":  true,
		"gzip;q=0":                       false,
		"gzip;q=0.000":                   false,
		"gzip ; Q=0.001":                 true,
		"gzip;q=0, *":                    false,
		"*":                              true,
		"*;q=0":                          false,
		"*;q=0, gzip":                    true,
		"identity":                       false,
		"identity, gzip":                 true,
		"identity;q=0.5, gzip;q=0.4":     false,
		"identity;q=0.4, gzip;q=0.5":     true,
		"identity;q=0, gzip;q=0.1":       true,
		"identity;q=0":                   false,
		"gzip;q=0.5, *;q=0.9":            false, // which is what it says of identity
		"gzip;q=2":                       false,
		"gzip;q=-1":                      false,
		"gzip;q=NaN":                     false,
		"gzip;q=":                        false,
		"gzip;level=9":                   false,
		"gzip;q=0, gzip":                 false,
		"gzip, gzip;q=0":                 false,
		"notgzip, gzipped":               false,
		",, ,gzip,":                      true,
		";q=1":                           false,
		strings.Repeat("gzip;q=0,", 999): false,
	} {
		if got := prefersGzip([]string{accept}); got != want {
			t.Errorf("%.60q: %v", accept, got)
		}
	}
	if prefersGzip(nil) || !prefersGzip([]string{"br", "gzip"}) || prefersGzip([]string{"gzip;q=0", "br"}) {
		t.Error("several header lines are not one list")
	}
}
