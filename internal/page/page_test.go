package page

import (
	"net/http"
	"net/http/httptest"
	"os"
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
