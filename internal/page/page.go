// Package page serves an HTML page that is held in memory, with headers that allow it what
// is in it and nothing else.
package page

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"time"
)

// A Page is an HTML page as it is served. It is an http.Handler.
type Page struct {
	html   string
	etag   string // the entity tag (RFC 9110, section 8.8.3)
	policy string // the Content-Security-Policy
}

// New returns a page, which has one script element and one style element. Its lines are
// served with LF at their ends: a browser hashes what it parsed, where they end so.
func New(html string) *Page {
	html = strings.ReplaceAll(html, "\r\n", "\n")
	return &Page{
		html: html,
		etag: `"` + digest(html) + `"`,
		// The page's own script and style, by hash, and nothing else.
		policy: "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:" +
			"; connect-src 'self' ws: wss:" +
			"; script-src 'sha256-" + digest(element(html, "script")) + "'" +
			"; style-src 'sha256-" + digest(element(html, "style")) + "'",
	}
}

// element returns the text of a page's only element of a name.
func element(html, name string) string {
	_, rest, _ := strings.Cut(html, "<"+name+">")
	text, _, _ := strings.Cut(rest, "</"+name+">")
	return text
}

// digest returns the SHA-256 of text in base64.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// ServeHTTP answers with the page.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // ask each time; the ETag makes that cheap
	h.Set("ETag", p.etag)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(p.html))
}
