package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// AdminFile is the name of the file with the first admin's credential, and adminName that admin's.
const (
	AdminFile = "admin.json"
	adminName = "admin"
)

// adminCredential is the file's content: an API key, which every region verifies by itself and which does not end.
type adminCredential struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

// EnsureAdmin sees to it that a file has the credential of an admin: the one that is there, if it is one, else a new API key of
// the service account "admin". Whoever may write the primary's folder is an admin anyway.
func (s *Service) EnsureAdmin(ctx context.Context, file, url string) error {
	present, err := readAdmin(file)
	if err != nil {
		return err
	}
	if present.Token != "" {
		if p, err := s.config.Verifier.Credential(present.Token); err == nil && p.HasRole(access.RoleAdmin) {
			if present.URL == url {
				return nil
			}
			return writeAdmin(file, adminCredential{URL: url, Token: present.Token})
		}
	}
	a, err := s.account(ctx, adminName)
	if rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND {
		id := newID("sa_")
		if _, err := transact(ctx, s.mesh,
			engine.SQL("INSERT INTO accounts (id, kind, name, disabled, tokens_after, created_at) VALUES (?1, ?2, ?3, 0, 0, ?4)",
				text(id), text(identity.Service.String()), text(adminName), integer(s.config.Clock().UnixMilli())),
			grantOperation(id, &authv1.Grant{Role: authv1.Role_ROLE_ADMIN})); err != nil {
			return fmt.Errorf("make the first admin: %w", err)
		}
		a, err = s.account(ctx, id)
	}
	if err != nil {
		return err
	}
	if a.disabled {
		s.config.Logger.WarnContext(ctx, "the admin is disabled: no credential is written", slog.String("file", file))
		return nil
	}
	_, secret, err := s.newKey(ctx, a.id, 0)
	if err != nil {
		return fmt.Errorf("make the first admin's key: %w", err)
	}
	return writeAdmin(file, adminCredential{URL: url, Token: secret})
}

func readAdmin(file string) (c adminCredential, err error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if json.Unmarshal(content, &c) != nil { // its error could quote the token
		return c, fmt.Errorf(`%s: want {"url":"…","token":"…"}`, file)
	}
	return c, nil
}

// writeAdmin writes the file whole or not at all, for its owner alone.
func writeAdmin(file string, c adminCredential) error {
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), AdminFile+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(content, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", file, err), os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), file)
}
