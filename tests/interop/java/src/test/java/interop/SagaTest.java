package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import feign.FeignException;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import pub.dtm.client.exception.FailureException;
import pub.dtm.client.saga.Saga;

/** Sagas of DTM's Java client. */
class SagaTest extends BankCase {
    /** Out of alice's account, into bob's. */
    private Saga transfer(String gid, long amount) {
        return dtm.newSaga(gid)
                .add(bank.url("alice", "action"), bank.url("alice", "compensate"), amount(-amount))
                .add(bank.url("bob", "action"), bank.url("bob", "compensate"), amount(amount));
    }

    @Test
    void bothStepsSucceed() throws Exception {
        assertEquals(gid, transfer(gid, 30).submit());
        Coordinator.View view = Coordinator.waitStatus(gid, "succeed");
        assertMoney("70", "30");
        assertTrace("01 alice/action", "02 bob/action");
        List<String> rows =
                List.of("01 compensate prepared", "01 action succeed", "02 compensate prepared", "02 action succeed");
        assertEquals(rows, view.rows);
        Call call = bank.calls().get(0);
        assertEquals("POST {\"amount\":-30}", call.method + " " + call.body);
        assertEquals(Map.of("gid", gid, "trans_type", "saga", "branch_id", "01", "op", "action"), call.identity);
    }

    @Test
    void theClientFetchesAGid() throws Exception {
        String fetched = transfer(null, 30).submit();
        assertEquals(22, fetched.length());
        Coordinator.waitStatus(fetched, "succeed");
        assertMoney("70", "30");
    }

    @Test
    void aRefusedStepIsCompensated() throws Exception {
        bank.script("bob", "action", Bank.Answer.REFUSED);
        // The client's barrier knows no empty compensation of a saga (see ClientFaultsTest), so bob's must not do anything.
        bank.script("bob", "compensate", Bank.Answer.SKIPPED);
        transfer(gid, 30).submit(); // nothing is reported here: the client did not ask to wait
        Coordinator.View view = Coordinator.waitStatus(gid, "failed");
        assertMoney("100", "0");
        assertTrace("01 alice/action", "02 bob/action", "02 bob/compensate", "01 alice/compensate");
        assertEquals(
                List.of("01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action failed"), view.rows);
        assertTrue(view.reason().contains("return failed"), view.reason());
    }

    @Test
    void waitingForASagaThatFailsThrowsTheClientsFailure() throws Exception {
        bank.script("alice", "action", Bank.Answer.REFUSED);
        bank.script("alice", "compensate", Bank.Answer.SKIPPED);
        Saga waited = transfer(gid, 30).enableWaitResult();
        FailureException thrown = assertThrows(FailureException.class, waited::submit);
        FeignException.Conflict cause = assertInstanceOf(FeignException.Conflict.class, thrown.getCause());
        assertTrue(cause.contentUTF8().startsWith("{\"dtm_result\":\"FAILURE\""), cause.contentUTF8());
        assertEquals("failed", Coordinator.query(gid).status());
        assertTrace("01 alice/action", "01 alice/compensate");
    }

    @Test
    void waitingForASagaThatIsNotDecidedIsNoConflict() throws Exception {
        Bank.Answer[] open = new Bank.Answer[8];
        Arrays.fill(open, Bank.Answer.ONGOING);
        bank.script("bob", "action", open);
        Saga waited = transfer(gid, 30).enableWaitResult();
        // The client throws this for whatever goes wrong; only its cause tells a decision from a delay.
        FailureException thrown = assertThrows(FailureException.class, waited::submit);
        FeignException cause = assertInstanceOf(FeignException.class, thrown.getCause());
        assertEquals(425, cause.status());
        assertEquals("submitted", Coordinator.query(gid).status());
        assertMoney("70", "0");
        bank.script("bob", "action");
        Coordinator.kick(gid);
        Coordinator.waitStatus(gid, "succeed");
        assertMoney("70", "30");
    }

    @Test
    void stepsOfAConcurrentSagaKeepTheirOrder() throws Exception {
        Saga ordered = transfer(gid, 30).enableConcurrent().enableWaitResult().addBranchOrder(0, List.of(1));
        ordered.submit();
        assertEquals("succeed", Coordinator.query(gid).status());
        assertMoney("70", "30");
        assertTrace("02 bob/action", "01 alice/action");
    }

    @Test
    void anActionWhoseAnswerWasLostIsDoneOnce() throws Exception {
        bank.script("alice", "action", Bank.Answer.LOST);
        transfer(gid, 30).submit();
        Coordinator.waitStatus(gid, "succeed");
        assertMoney("70", "30");
        assertTrace("01 alice/action", "01 alice/action", "02 bob/action");
    }

    @Test
    void branchHeadersReachEveryCall() throws Exception {
        Saga tagged = transfer(gid, 30);
        tagged.getBranchHeaders().put("X-Tenant", "north");
        tagged.submit();
        Coordinator.waitStatus(gid, "succeed");
        for (Call call : bank.calls()) {
            assertEquals(List.of("north"), call.headers.get("X-Tenant"));
        }
    }

    @Test
    void submittingWhatHasEndedThrowsTheClientsFailure() throws Exception {
        transfer(gid, 30).submit();
        Coordinator.waitStatus(gid, "succeed");
        FailureException thrown = assertThrows(FailureException.class, transfer(gid, 30)::submit);
        assertInstanceOf(FeignException.Conflict.class, thrown.getCause());
        assertMoney("70", "30");
    }
}
