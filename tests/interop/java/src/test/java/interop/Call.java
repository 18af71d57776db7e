package interop;

import java.util.List;
import java.util.Map;

/** A request as it arrived at the bank. */
final class Call {
    final String method;
    final String account;
    final String verb;
    /** The query: gid, trans_type, branch_id, op. */
    final Map<String, String> identity;
    final Map<String, List<String>> headers;
    final String body;

    Call(
            String method,
            String account,
            String verb,
            Map<String, String> identity,
            Map<String, List<String>> headers,
            String body) {
        this.method = method;
        this.account = account;
        this.verb = verb;
        this.identity = identity;
        this.headers = headers;
        this.body = body;
    }

    @Override
    public String toString() {
        return identity.get("branch_id") + " " + account + "/" + verb;
    }
}
