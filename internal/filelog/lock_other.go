//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package filelog

import (
	"errors"
	"os"
)

// lock says that it cannot lock: two processes that wrote the same files would lose messages.
func lock(string) (*os.File, error) {
	return nil, errors.New("a directory cannot be locked on this system")
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
