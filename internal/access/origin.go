// Package access says, by a request's headers, who sends it and whether the page that does
// may use the chat.
package access

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Origins are the hosts whose pages may use the chat, as host or host:port. Without any, a
// page may use the host that it came from.
type Origins []string

// ParseOrigins reads a comma-separated list; an empty one has no hosts.
func ParseOrigins(list string) (Origins, error) {
	if list == "" {
		return nil, nil
	}
	hosts := strings.Split(list, ",")
	for i, host := range hosts {
		hosts[i] = strings.TrimSpace(host)
		u, err := url.Parse("http://" + hosts[i])
		if err != nil || u.Host != hosts[i] || u.Hostname() == "" {
			return nil, fmt.Errorf("%q is not a host or host:port", host)
		}
	}
	return hosts, nil
}

// Allow reports whether the page that sends a request may join, by its Origin. Without a
// list, any page may join the host that it came from. That does not stop DNS rebinding, where
// a hostile page's own host name suddenly resolves to this machine: only a list does. A
// program that is no browser sends no Origin and may join.
func (os Origins) Allow(r *http.Request) bool {
	switch origins := r.Header["Origin"]; len(origins) {
	case 0:
		return true
	case 1:
		return os.has(origins[0], r.Host)
	}
	return false
}

// AllowRead reports whether the page that sends a request may read what was said, and returns
// the page's origin. A browser names none when a page reads what its own host has: with a
// list, the host that was asked for is looked at instead, since the page may have come there
// by DNS rebinding.
func (os Origins) AllowRead(r *http.Request) (origin string, ok bool) {
	origin = r.Header.Get("Origin")
	if len(r.Header["Origin"]) > 0 || os == nil {
		return origin, os.Allow(r)
	}
	origin = "http://" + r.Host
	return origin, os.has(origin, r.Host)
}

// has reports whether pages of an origin may use the host that was asked for.
func (os Origins) has(origin, asked string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	same := strings.EqualFold(u.Host, asked)
	if os == nil {
		return same
	}
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); same && (err == nil || strings.EqualFold(host, "localhost")) {
		return true // no name server was asked, so this is not DNS rebinding
	}
	return slices.ContainsFunc(os, func(listed string) bool {
		return strings.EqualFold(listed, u.Host) || strings.EqualFold(strings.Trim(listed, "[]"), host)
	})
}
