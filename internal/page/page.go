// Package page serves an HTML page that is held in memory, with headers that allow it what
// is in it and nothing else.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Page is an HTML page as it is served. It is an http.Handler.
type Page struct {
	policy     string // the Content-Security-Policy
	plain      representation
	compressed representation
}

// A representation is a page in one content coding.
type representation struct {
	bytes []byte
	etag  string // the entity tag (RFC 9110, section 8.8.3), which no other has
}

// New returns a page, which has one script element and one style element. Its lines are
// served with LF at their ends: a browser hashes what it parsed, where they end so.
func New(html string) *Page {
	html = strings.ReplaceAll(html, "\r\n", "\n")
	return &Page{
		plain:      representation{[]byte(html), `"` + digest(html) + `"`},
		compressed: representation{compress(html), `"` + digest(html) + `-gzip"`},
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

// compress returns a text as gzip has it.
func compress(text string) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		panic(err) // there is no such level
	}
	w.Write([]byte(text)) // writing to memory does not fail
	w.Close()
	return b.Bytes()
}

// ServeHTTP answers with the page, compressed if the client prefers that.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // ask each time; the ETag makes that cheap
	h.Set("Vary", "Accept-Encoding")
	shown := p.plain
	if prefersGzip(r.Header["Accept-Encoding"]) {
		shown = p.compressed
		h.Set("Content-Encoding", "gzip")
		if r.Header["If-Match"] == nil { // which alone may lead to an answer without a body and with this header
			h.Set("Content-Length", strconv.Itoa(len(shown.bytes))) // ServeContent leaves it to us
		}
	}
	h.Set("ETag", shown.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(shown.bytes))
}

// prefersGzip reports whether a client takes gzip, and not rather a text without a coding,
// by its Accept-Encoding (RFC 9110, section 12.5.3). What it does not say clearly, it does
// not take.
func prefersGzip(accept []string) bool {
	weights := map[string]float64{}
	for item := range strings.SplitSeq(strings.ToLower(strings.Join(accept, ",")), ",") {
		coding, parameter, hasParameter := strings.Cut(item, ";")
		weight := 1.0
		if hasParameter {
			q, ok := strings.CutPrefix(strings.TrimSpace(parameter), "q=")
			var err error
			if weight, err = strconv.ParseFloat(q, 64); !ok || err != nil || !(weight >= 0 && weight <= 1) {
				continue
			}
		}
		coding = strings.TrimPrefix(strings.TrimSpace(coding), "x-")
		if earlier, ok := weights[coding]; !ok || weight < earlier {
			weights[coding] = weight
		}
	}
	weightOf := func(coding string) float64 {
		if weight, ok := weights[coding]; ok {
			return weight
		}
		return weights["*"]
	}
	return weightOf("gzip") > 0 && weightOf("gzip") >= weightOf("identity")
}
