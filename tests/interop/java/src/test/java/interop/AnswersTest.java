package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import feign.Feign;
import feign.FeignException;
import feign.jackson.JacksonDecoder;
import feign.jackson.JacksonEncoder;
import org.junit.jupiter.api.Test;
import pub.dtm.client.constant.Constants;
import pub.dtm.client.enums.TransTypeEnum;
import pub.dtm.client.model.param.OperatorParam;
import pub.dtm.client.model.param.TccOperatorParam;
import pub.dtm.client.stub.DtmFeignClient;

/** The client's own stub, call by call: what it decodes, and which error it throws. */
class AnswersTest {
    private final DtmFeignClient stub =
            Feign.builder()
                    .decoder(new JacksonDecoder())
                    .encoder(new JacksonEncoder())
                    .target(DtmFeignClient.class, Constants.HTTP_PREFIX + Coordinator.endpoint());

    private static OperatorParam tcc(String gid) {
        return new OperatorParam(gid, TransTypeEnum.TCC);
    }

    private static OperatorParam branch(String gid, String confirm) {
        return new TccOperatorParam(gid, TransTypeEnum.TCC, "01", "prepared", "{}", confirm, "http://127.0.0.1:9/cancel");
    }

    @Test
    void everySuccessIsDecoded() {
        stub.ping();
        String gid = stub.newGid().getGid();
        assertEquals(22, gid.length());
        assertEquals("SUCCESS", stub.newGid().getDtmResult());
        assertEquals("SUCCESS", stub.prepare(tcc(gid)).getDtmResult());
        assertEquals("SUCCESS", stub.prepare(tcc(gid)).getDtmResult());
        assertEquals("SUCCESS", stub.abort(tcc(gid)).getDtmResult());
    }

    @Test
    void aRequestThatIsSentTwiceIsASuccessAndOtherContentIsNot() {
        String gid = stub.newGid().getGid();
        stub.prepare(tcc(gid));
        assertEquals("SUCCESS", stub.registerBranch(branch(gid, "http://127.0.0.1:9/confirm")).getDtmResult());
        assertEquals("SUCCESS", stub.registerBranch(branch(gid, "http://127.0.0.1:9/confirm")).getDtmResult());
        assertThrows(FeignException.Conflict.class, () -> stub.registerBranch(branch(gid, "http://127.0.0.1:9/other")));
    }

    @Test
    void everyErrorHasItsKind() {
        assertThrows(FeignException.NotFound.class, () -> stub.abort(tcc("java-unknown")));
        assertThrows(FeignException.NotFound.class, () -> stub.submit(tcc("java-unknown")));
        assertThrows(FeignException.Conflict.class, () -> stub.registerBranch(branch("java-unknown", "http://127.0.0.1:9/confirm")));
        assertThrows(FeignException.BadRequest.class, () -> stub.prepare(tcc("")));
        assertThrows(FeignException.BadRequest.class, () -> stub.prepare(tcc("a;b")));
    }
}
