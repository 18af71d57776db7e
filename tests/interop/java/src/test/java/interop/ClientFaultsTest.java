package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.ArrayList;
import java.util.Map;
import org.junit.jupiter.api.Test;
import pub.dtm.client.saga.Saga;

/** Faults of the client that no server can cure, so that nobody looks for them in the coordinator. */
class ClientFaultsTest extends BankCase {
    @Test
    void itsOptionsOfASagaCallThemselvesForEver() {
        Saga saga = dtm.newSaga(gid);
        assertThrows(StackOverflowError.class, () -> saga.setTimeoutToFail(10));
        assertThrows(StackOverflowError.class, () -> saga.setRetryInterval(10));
        assertThrows(StackOverflowError.class, () -> saga.setBranchHeaders(Map.of("X-Tenant", "north")));
        assertThrows(StackOverflowError.class, () -> saga.setPassthroughHeaders(new ArrayList<>()));
    }

    @Test
    void itsBarrierCompensatesAnActionThatNeverHappened() throws Exception {
        dtm.newSaga(gid).add(bank.url("alice", "action"), bank.url("alice", "compensate"), amount(-1000)).submit();
        Coordinator.waitStatus(gid, "failed");
        assertTrace("01 alice/action", "01 alice/compensate");
        // The action was refused and changed nothing; the compensation gives back what was never taken.
        assertEquals("1100", bank.balances().get("alice"));
    }
}
