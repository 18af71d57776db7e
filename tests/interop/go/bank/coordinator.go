package bank

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Stored is what the coordinator has of a transaction.
type Stored struct {
	Transaction *struct {
		Status         string `json:"status"`
		TransType      string `json:"trans_type"`
		Protocol       string `json:"protocol"`
		RollbackReason string `json:"rollback_reason"`
		Result         string `json:"result"`
	} `json:"transaction"`
	Branches []struct {
		BranchID string `json:"branch_id"`
		Op       string `json:"op"`
		Status   string `json:"status"`
		URL      string `json:"url"`
	} `json:"branches"`
}

// Rows are the branches in their order: "01-action succeed".
func (s *Stored) Rows() string {
	rows := make([]string, 0, len(s.Branches))
	for _, b := range s.Branches {
		rows = append(rows, b.BranchID+"-"+b.Op+" "+b.Status)
	}
	return strings.Join(rows, ", ")
}

// Query asks the coordinator for a transaction.
func Query(t *testing.T, gid string) *Stored {
	t.Helper()
	var stored Stored
	Must(t, json.Unmarshal(get(t, "/query?gid="+url.QueryEscape(gid)), &stored))
	return &stored
}

// Status is the status of a transaction, empty if there is none.
func Status(t *testing.T, gid string) string {
	t.Helper()
	if stored := Query(t, gid); stored.Transaction != nil {
		return stored.Transaction.Status
	}
	return ""
}

// UntilStatus waits for a status and returns what is stored then.
func UntilStatus(t *testing.T, gid, status string) *Stored {
	t.Helper()
	end := time.Now().Add(Deadline)
	for {
		stored := Query(t, gid)
		if stored.Transaction != nil && stored.Transaction.Status == status {
			return stored
		}
		if time.Now().After(end) {
			t.Fatalf("%s is not %s within %v: %+v", gid, status, Deadline, stored)
		}
		time.Sleep(pause)
	}
}

// ExpectStatus asserts the status now and returns what is stored.
func ExpectStatus(t *testing.T, gid, status string) *Stored {
	t.Helper()
	stored := Query(t, gid)
	if stored.Transaction == nil || stored.Transaction.Status != status {
		t.Fatalf("%s should be %s: %+v", gid, status, stored)
	}
	return stored
}

// Subscribe adds a subscriber to a topic, which the client has no call for over HTTP.
func Subscribe(t *testing.T, topic, address string) {
	t.Helper()
	get(t, fmt.Sprintf("/subscribe?topic=%s&url=%s&remark=interop", topic, url.QueryEscape(address)))
}

// Unsubscribe removes one.
func Unsubscribe(t *testing.T, topic, address string) {
	t.Helper()
	get(t, fmt.Sprintf("/unsubscribe?topic=%s&url=%s", topic, url.QueryEscape(address)))
}

func get(t *testing.T, path string) []byte {
	t.Helper()
	response, err := http.Get(API() + path)
	Must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	Must(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, response.StatusCode, body)
	}
	return body
}
