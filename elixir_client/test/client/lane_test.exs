defmodule SnakeBridge.LaneTest do
  @moduledoc "Messages of the lane whose values cannot be read, and answers that must arrive whatever happens."
  use ExUnit.Case, async: true

  alias SnakeBridge.{Error, Lane}

  # An extension that nobody knows.
  @unreadable <<0xD4, 0x7F, 0>>

  # A message with its last value replaced.
  defp spoilt({:ok, body}), do: spoilt(body)

  defp spoilt(body),
    do: body |> IO.iodata_to_binary() |> binary_part(0, IO.iodata_length(body) - 1) |> Kernel.<>(@unreadable)

  test "the first bytes say what a message is, and whose" do
    options = Lane.options([])

    for id <- [0, 127, 128, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296] do
      request = spoilt(Lane.request(id, "callback", nil, options))
      response = spoilt(Lane.response(id, nil, nil, options))
      for body <- [request, response], do: assert({:error, %Error{}} = Lane.parse(body, options))
      assert {:request, id} == Lane.peek(request)
      assert {:response, id} == Lane.peek(response)
    end

    assert {:notification, "items"} == Lane.peek(spoilt(Lane.notification("items", [1])))
  end

  test "what is no message is nobody's" do
    for body <- [
          "",
          <<0xC0>>,
          <<0x93, 2>>,
          <<0x93, 2, 0xA5, "item">>,
          <<0x94, 0>>,
          <<0x94, 1, 0xCD, 1>>,
          <<0x94, 2, 1>>,
          <<0x94, 0, 0xA1, "x">>
        ] do
      assert :garbage == Lane.peek(body)
    end
  end

  test "the message of a refusal is cut, so that it fits" do
    body = Lane.refusal(1, "callback_error", String.duplicate("x", 1_000_000), "Big") |> IO.iodata_to_binary()
    assert byte_size(body) < 64 * 1024

    assert {:ok, {:response, 1, %{"category" => "callback_error", "message" => "xxx" <> _}, nil}} =
             Lane.parse(body, Lane.options([]))

    assert IO.iodata_to_binary(Lane.refusal(1, "callback_error", <<255>>))
           |> Lane.parse(Lane.options([]))
           |> elem(0) == :ok
  end
end
