// Package address knows at which URLs a server that listens on an address can be opened, and
// what to do when it cannot listen there.
package address

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// What Windows calls EADDRINUSE, EADDRNOTAVAIL and EACCES. No other system has such numbers.
const (
	wsaAddrInUse    = syscall.Errno(10048)
	wsaAddrNotAvail = syscall.Errno(10049)
	wsaAccess       = syscall.Errno(10013)
)

// Explain returns the error of listening on an address, which a flag gave, with what to try
// instead.
func Explain(flag, addr string, err error) error {
	is := func(errs ...error) bool {
		for _, e := range errs {
			if errors.Is(err, e) {
				return true
			}
		}
		return false
	}
	host, port, _ := net.SplitHostPort(addr)
	number, _ := net.LookupPort("tcp", port)
	var unknown *net.DNSError
	switch {
	case is(syscall.EADDRINUSE, wsaAddrInUse):
		return fmt.Errorf("%s: %w (is another chat running? %s)", flag, err, other(flag, host, number+1))
	case is(syscall.EACCES, syscall.EPERM, wsaAccess):
		return fmt.Errorf("%s: %w (this user may not listen on port %d; %s)", flag, err, number, other(flag, host, max(number+1, 8080)))
	case is(syscall.EADDRNOTAVAIL, wsaAddrNotAvail), errors.As(err, &unknown):
		return fmt.Errorf("%s: %w (this machine has no address %s; %s :%s listens on all that it has)", flag, err, host, flag, port)
	}
	return fmt.Errorf("%s: %w", flag, err)
}

// portsTried is how many ports other tries.
const portsTried = 100

// other returns what to try instead of a port that cannot be had: the first free one from
// port on.
func other(flag, host string, port int) string {
	for p := port; p < port+portsTried && p <= 65535; p++ {
		addr := net.JoinHostPort(host, strconv.Itoa(p))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return fmt.Sprintf("%s %s is free", flag, addr)
		}
	}
	return "try another port"
}

// URLs returns the URLs at which other machines and this one can open a server that
// listens on addr; others is "" if they cannot. For a wildcard address, outward returns the
// address that others see, nil if there is none; its argument is "udp4" or "udp6".
func URLs(addr *net.TCPAddr, outward func(network string) net.IP) (others, here string) {
	page := func(host string) string {
		return "http://" + net.JoinHostPort(host, strconv.Itoa(addr.Port))
	}
	switch ip := addr.IP; {
	case ip.IsUnspecified():
		for _, network := range []string{"udp4", "udp6"} {
			if network == "udp6" && ip.To4() != nil {
				break // it listens on IPv4 alone
			}
			if ip := outward(network); ip != nil && ip.IsGlobalUnicast() { // neither loopback nor link-local
				others = page(ip.String())
				break
			}
		}
		return others, page("localhost")
	case ip.Equal(net.IPv4(127, 0, 0, 1)), ip.Equal(net.IPv6loopback):
		return "", page("localhost")
	case ip.IsLoopback():
		return "", page(ip.String())
	default:
		return page(addr.IP.String()), page(addr.IP.String())
	}
}

// Outward returns this machine's address on its default route, nil without one. It sends
// nothing: to connect a UDP socket only looks up the route. The addresses that it looks up
// are reserved for documentation (RFC 5737, RFC 3849).
func Outward(network string) net.IP {
	conn, err := net.Dial(network, map[string]string{"udp4": "192.0.2.1:9", "udp6": "[2001:db8::1]:9"}[network])
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP
}
