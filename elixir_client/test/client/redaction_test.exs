defmodule SnakeBridge.RedactionTest do
  use ExUnit.Case, async: true

  alias SnakeBridge.Pool
  alias SnakeBridge.Pool.LastWords
  alias SnakeBridge.Redaction

  test "what stands behind a secret's name is taken out, and nothing else" do
    for text <- [
          "password='hunter22'",
          ~s({"api_key": "hunter22"}),
          "PGPASSWORD=hunter22 psql",
          "Authorization: Bearer hunter22",
          "postgres://app:hunter22@db/app"
        ] do
      told = Redaction.text(text)
      refute told =~ "hunter22"
      assert told =~ "[redacted]"
    end

    for text <- ["Unexpected token: }", "passwords differ", "http://host:80/x", "x = 3", "naïve: \u2028"],
        do: assert(Redaction.text(text) == text)
  end

  test "names of secrets are known" do
    assert Enum.all?(~w(password DB_PASSWORD apiKey AWS_SECRET_ACCESS_KEY token), &Redaction.secret?/1)
    refute Enum.any?(~w(author tokenizer keyboard session_id PATH), &Redaction.secret?/1)
  end

  test "the last words of a worker are without them" do
    words = LastWords.add(LastWords.new(), "login failed: password='hunter22'")
    refute LastWords.quoted(words) =~ "hunter22"
    assert LastWords.quoted(words) =~ "login failed"
  end

  test "what a pool is started with, and the states of its processes, show no variable of the environment" do
    name = :"pool_#{System.unique_integer([:positive])}"
    secret = "planted-5ecret-#{System.unique_integer([:positive])}"

    options = [
      name: name,
      size: 1,
      python: Path.expand(".venv/bin/python"),
      env: [{"SERVICE_API_KEY", secret}]
    ]

    refute inspect(Pool.child_spec(options), limit: :infinity) =~ secret

    pool = start_supervised!({Pool, options})
    assert {:ok, ^secret} = SnakeBridge.call("os", "getenv", ["SERVICE_API_KEY"], pool: name)

    for pid <- below(pool),
        do: refute(inspect(:sys.get_state(pid), limit: :infinity, printable_limit: :infinity) =~ secret)

    assert length(below(pool)) > 1
  end

  defp below(supervisor) do
    children = for {_, pid, type, _} <- Supervisor.which_children(supervisor), is_pid(pid), do: {pid, type}

    [
      supervisor
      | Enum.flat_map(children, fn {pid, type} -> if type == :supervisor, do: below(pid), else: [pid] end)
    ]
  end
end
