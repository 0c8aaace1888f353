-- What HAProxy's own rules cannot do: read a unit whose name is in the route, copy requests to the shadow, and limit the
-- size of bodies that are sent in chunks. Most requests call none of it.

-- The route's field 10: "h=X-Customer" or "f=customer.id".
core.register_fetches("unit", function(txn)
    local from = txn:get_var("req.unit_from")
    local name = from:sub(3)
    if from:sub(1, 2) == "h=" then
        return txn.sf:req_fhdr(name)
    end
    if not txn:get_var("req.whole") then
        return ""
    end
    return txn.c:json_query(txn.sf:req_body(), "$." .. name) or ""
end)

local id = os.getenv("TAXIWAY_EDGE_ID")
local under_way = {}

local function field(route, wanted)
    local number = 0
    for value in route:gmatch("[^:]+") do
        number = number + 1
        if number == wanted then
            return value
        end
    end
end

-- Copy a request to the shadow. It never fails and never waits: a copy that cannot be sent now is dropped and counted.
core.register_action("mirror", { "http-req" }, function(txn)
    local model, route = txn:get_var("req.model"), txn:get_var("txn.route")
    local busy = under_way[model] or 0
    if busy >= tonumber(field(route, 9)) then
        txn:set_var("req.dropped", true)
        return
    end
    under_way[model] = busy + 1
    local body = txn.sf:req_body()
    local headers = {
        ["content-type"] = { txn.sf:req_fhdr("Content-Type") },
        ["x-request-id"] = { txn:get_var("txn.request_id") },
        ["x-taxiway-route"] = { model .. ":" .. route },
    }
    local unit_key = txn:get_var("req.shadow_unit_key")
    if unit_key then
        headers["x-taxiway-count"] = { unit_key }
    end
    if not txn:get_var("req.anonymous") then
        headers["x-taxiway-unit"] = { txn:get_var("req.unit") }
    end
    local url = "http://127.0.0.1" .. txn.sf:pathq()
    core.register_task(function()
        local client = core.httpclient()
        pcall(client.post, client, {
            url = url,
            headers = headers,
            body = body,
            dst = "abns@taxiway-shadow-" .. id,
            timeout = tonumber(field(route, 13)) + 2000,
        })
        under_way[model] = under_way[model] - 1
    end)
end)

-- End a request whose body is too large. If it is sent in chunks, its size is not known beforehand.
local most_bytes = tonumber(os.getenv("TAXIWAY_EDGE_MAX_BODY_BYTES"))
local Limit = { flags = filter.FLT_CFG_FL_HTX }
Limit.__index = Limit

function Limit:new()
    return setmetatable({ bytes = 0 }, Limit)
end

function Limit:start_analyze(_, channel)
    if not channel:is_resp() then
        filter.register_data_filter(self, channel)
    end
end

function Limit:http_payload(_, message)
    self.bytes = self.bytes + message:input()
    if self.bytes > most_bytes + 1 then -- HAProxy counts the end of the message as a byte
        error("too large") -- the only way to end it: HAProxy answers 400, which the listener turns into 413
    end
end

core.register_filter("limit", Limit, function(limit)
    return limit
end)
