defmodule SnakeBridge.Generator.DocumentationTest do
  # Not async: while mix loads test files, what is compiled has no documentation.
  use ExUnit.Case, async: false

  import SnakeBridge.Described

  alias SnakeBridge.Generator.Renderer

  test "documentation comes back as it is, whatever is in it" do
    doc = "A \"quoted\" \\alpha \#{x}.\n\n\"\"\"\ninside\n\"\"\"\n\n    code \\n"
    both = doc <> "\n\n'''\nand\n'''"
    bidi = "Left \u202Eright\u0000.\n\nEnd."
    name = "Rendered#{System.unique_integer([:positive])}"

    functions =
      for {text, i} <- Enum.with_index([doc, both, bidi]), do: function("f#{i}", [], %{"doc" => text})

    source = Renderer.render(module(name, functions))
    [{_, beam}] = Code.compile_string(source)
    {:ok, {_, [{'Docs', chunk}]}} = :beam_lib.chunks(beam, ['Docs'])
    {:docs_v1, _, _, _, %{"en" => moduledoc}, _, docs} = :erlang.binary_to_term(chunk)
    texts = for {{:function, name, _}, _, _, %{"en" => text}, _} <- docs, into: %{}, do: {name, text}
    assert texts[:f0] =~ doc
    assert texts[:f1] =~ both
    assert texts[:f2] =~ "Left right."
    assert texts[:f0] =~ "Python: `f0(...)`"
    assert moduledoc =~ "as of version 1.2.3"
  end
end
